"""TroubleBar: below the first rows of every screen while there is no queen: what, why, what to do.

Shown only then; it counts down to the next try, and says how old is what stands below it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual.content import Content
from textual.widgets import Static

from rbee.tui import cells, keymap
from rbee.tui.glyphs import Glyphs, wall_time
from rbee.tui.store import ColonyStore
from rbee.tui.trouble import again_words, trouble

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp


class TroubleBar(Static):
    """Two or three rows, or none at all."""

    def __init__(self) -> None:
        super().__init__("", classes="trouble")
        self._shown = ""

    def repaint(self) -> None:
        """From the store; nothing happens while all is well."""
        rbee = cast("RbeeApp", self.app)
        key = keymap.key_text(rbee.overrides.get("queen.retry", keymap.BY_ID["queen.retry"].keys))
        content = trouble_content(rbee.store, rbee.glyphs, key)
        if self.display != (content is not None):
            self.display = content is not None
        if content is not None and content.markup != self._shown:
            self._shown = content.markup
            self.update(content)


def trouble_content(store: ColonyStore, glyphs: Glyphs, key: str) -> Content | None:
    """What the bar says; None: there is nothing to say."""
    told = trouble(store)
    if told is None:
        return None
    again = again_words(store).replace(" ", "\xa0")
    words = cells.safe(told.what)
    head = f"{words[:1].upper()}{words[1:]}".rstrip(".")
    out: list[tuple[str, str] | str] = [
        (f"{glyphs.failed} ", "$error bold"),
        (f"{head}.", "$foreground"),
        (f" {again[:1].upper()}{again[1:]}." if again else "", "$warning"),
        f"\n{glyphs.arrow} ",
        (cells.safe(told.action), "$foreground"),
    ]
    if again:
        out += ["  ", (f"{key}\xa0", "$primary bold"), ("try\xa0now", "$muted")]
    if store.heard_at is not None:
        out.append((f"  shown\xa0as\xa0of\xa0{wall_time(store.heard_at)}", "$muted"))
    return Content.assemble(*out)
