"""Keys of lists and of the narration, wherever they are."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {"lists": "Lists", "tabs": "Tabs", "narration": "Narration"}
ACTIONS = [
    Action("list.up", "up,k", "up", "Row up", "lists", "cursor(-1)"),
    Action("list.down", "down,j", "down", "Row down", "lists", "cursor(1)"),
    Action("list.first", "g,home", "first", "First row", "lists", "first"),
    Action("list.last", "G,end", "last", "Last row", "lists", "last"),
    Action("list.page_up", "pageup", "page up", "Page up", "lists", "page(-1)"),
    Action("list.page_down", "pagedown", "page down", "Page down", "lists", "page(1)"),
    Action("list.sort", "s", "sort", "Sort by the next column", "lists", "sort"),
    Action("list.reverse", "S", "reverse", "Reverse the order", "lists", "reverse"),
    Action("list.copy", "y", "copy", "Copy the id", "lists", "copy"),
    Action("list.copy_command", "Y", "copy", "Copy as a command", "lists", "copy_command"),
    Action("narration.up", "up,k", "up", "Line up", "narration", "scroll_up"),
    Action("narration.down", "down,j", "down", "Line down", "narration", "scroll_down"),
    Action("list.mark", "space", "mark", "Mark rows, to act on all of them", "lists", "mark"),
    Action("tab.previous", "left", "tab before", "The tab before", "tabs", "screen.tab(-1)"),
    Action("tab.next", "right", "next tab", "The next tab", "tabs", "screen.tab(1)"),
]
