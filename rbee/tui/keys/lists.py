"""Keys of lists and of the narration, wherever they are."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {"lists": "Lists", "tabs": "Tabs", "texts": "Texts", "narration": "Narration"}
ACTIONS = [
    Action("list.up", "up,k", "up", "Row up", "lists", "cursor(-1)"),
    Action("list.down", "down,j", "down", "Row down", "lists", "cursor(1)"),
    Action("list.first", "g,home", "first", "First row", "lists", "first"),
    Action("list.last", "G,end", "last", "Last row", "lists", "last"),
    Action("list.page_up", "pageup", "page up", "Page up", "lists", "page(-1)"),
    Action("list.page_down", "pagedown", "page down", "Page down", "lists", "page(1)"),
    Action(
        "list.half_up", "shift+pageup", "half page up", "Half a page up", "lists", "half_page(-1)"
    ),
    Action(
        "list.half_down",
        "shift+pagedown",
        "half page",
        "Half a page down",
        "lists",
        "half_page(1)",
    ),
    Action("list.sort", "s", "sort", "Sort by the next column", "lists", "sort"),
    Action("list.reverse", "S", "reverse", "Reverse the order", "lists", "reverse"),
    Action("list.copy", "y", "copy", "Copy the id", "lists", "copy"),
    Action("list.copy_command", "Y", "copy", "Copy as a command", "lists", "copy_command"),
    Action("narration.up", "up,k", "up", "Line up", "narration", "scroll_up"),
    Action("narration.down", "down,j", "down", "Line down", "narration", "scroll_down"),
    Action("narration.first", "g,home", "first", "First line", "narration", "scroll_home"),
    Action("narration.last", "G,end", "last", "Last line", "narration", "scroll_end"),
    Action("list.mark", "space", "mark", "Mark rows, to act on all of them", "lists", "mark"),
    Action("tab.previous", "left", "tab before", "The tab before", "tabs", "screen.tab(-1)"),
    Action("tab.next", "right", "next tab", "The next tab", "tabs", "screen.tab(1)"),
    Action(
        "text.previous", "shift+left", "tab before", "The tab before", "texts", "screen.tab(-1)"
    ),
    Action("text.next", "shift+right", "next tab", "The next tab", "texts", "screen.tab(1)"),
    Action("text.first", "g,home", "first", "The first line", "texts", "scroll_home"),
    Action("text.last", "G,end", "last", "The last line", "texts", "scroll_end"),
]
