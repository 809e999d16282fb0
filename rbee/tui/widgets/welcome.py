"""Welcome: what the dashboard shows while there is no hive, and before the queen is up.

Says where things stand and offers only what works; never a dialog, so every screen key still works.
"""

from __future__ import annotations

from typing import ClassVar

from textual.binding import BindingType
from textual.containers import Center, Middle
from textual.content import Content
from textual.widgets import Static

from rbee.narration import printable
from rbee.tui import keymap
from rbee.tui.glyphs import Glyphs
from rbee.tui.store import ColonyStore, Link
from rbee.tui.widgets.machines import free_hosts, known_words

DEMO_MODEL = "smollm2-135m"


def demo_model(store: ColonyStore) -> str | None:
    """The catalogue's id of the small demo model, when the colony has it."""
    found = [model.id for model in store.offered_models() if DEMO_MODEL in model.id.lower()]
    return found[0] if found else None


class Welcome(Middle, can_focus=True):
    """A hex cluster, one sentence, and the keys that lead on."""

    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings("welcome")

    def __init__(self, glyphs: Glyphs) -> None:
        self._card = Static("", id="welcome-card")
        super().__init__(Center(self._card), id="welcome", classes="hatched")
        self._glyphs = glyphs
        self._shown = ""

    def show(self, store: ColonyStore) -> None:
        """Fill from the store."""
        content = self._content(store)
        if content.markup != self._shown:
            self._shown = content.markup
            self._card.update(content)

    def _content(self, store: ColonyStore) -> Content:
        hollow, full = self._glyphs.logo_hollow, self._glyphs.logo
        cluster = [f" {hollow} {full} {hollow} ", f"{full} {hollow} {full} {hollow}"]
        head, lines = self._words(store)
        left = [cluster[0], cluster[1], cluster[0]]
        right: list[Content] = [Content.styled(head, "$foreground bold"), Content(""), *lines]
        rows: list[Content] = []
        for at in range(max(len(left), len(right))):
            mark = left[at] if at < len(left) else " " * 7
            text = right[at] if at < len(right) else Content("")
            rows.append(Content.assemble((mark, "$primary"), "     ", text))
        dot = self._glyphs.dot
        keys = f"^p everything {dot} ? keys {dot} 6 chat {dot} ^q quit"
        return Content("\n").join([*rows, Content(""), Content.styled(keys, "$muted")])

    def _words(self, store: ColonyStore) -> tuple[str, list[Content]]:
        if store.link is Link.UP:
            lines = [
                Content.styled("This machine's own hive joins by itself.", "$muted"),
                Content(""),
                _key("a", "add a machine over ssh"),
            ]
            if free := free_hosts(store.around):
                names = ", ".join(printable(one.name) for one in free[:2])
                more = f" and {len(free) - 2} more" if len(free) > 2 else ""
                words = f"{known_words(free)}: {names}{more}"
                lines.append(Content.styled(f"{'':<7}{self._glyphs.clip(words, 52)}", "$muted"))
            if demo_model(store):
                lines.append(_key("d", "try it with the demo model"))
            return "The queen is up. No hives yet.", lines
        if store.link in (Link.LOST, Link.FAILED):
            words = "The queen is being restarted." if store.link is Link.LOST else "No queen."
            return words, [Content.styled(store.message, "$error")]
        return "Looking for the queen…", [
            Content.styled("One is started if none is running.", "$muted")
        ]


def _key(key: str, words: str) -> Content:
    return Content.assemble((f"{key:<7}", "$primary bold"), (words, "$foreground"))
