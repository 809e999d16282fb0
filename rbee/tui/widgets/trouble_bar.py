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
        content = trouble_content(rbee.store, rbee.glyphs, key, self.app.size.width - 2)
        if self.display != (content is not None):
            self.display = content is not None
        if content is not None and content.markup != self._shown:
            self._shown = content.markup
            self.update(content)


def trouble_content(store: ColonyStore, glyphs: Glyphs, key: str, room: int) -> Content | None:
    """What the bar says in lines of `room` cells; None: there is nothing to say."""
    told = trouble(store)
    if told is None:
        return None
    again = again_words(store)
    words = cells.safe(told.what)
    head = Content.assemble(
        (f"{glyphs.failed} ", "$error bold"),
        (f"{words[:1].upper()}{words[1:]}".rstrip(".") + ".", "$foreground"),
    )
    lines = _joined(head, [Content.styled(f"{again[:1].upper()}{again[1:]}.", "$warning")]
                    if again else [], room)  # fmt: skip
    tail: list[Content] = []
    if again:
        tail.append(Content.assemble((key, "$primary bold"), (" try now", "$muted")))
    if store.heard_at is not None:
        tail.append(Content.styled(f"shown as of {wall_time(store.heard_at)}", "$muted"))
    action = Content.assemble(f"{glyphs.arrow} ", (cells.safe(told.action), "$foreground"))
    return Content("\n").join([*lines, *_joined(action, tail, room)])


def _joined(first: Content, parts: list[Content], room: int) -> list[Content]:
    """On one line what fits it; else the parts on one of their own."""
    behind = Content("  ").join(parts)
    if not parts:
        return [first]
    if first.cell_length + 2 + behind.cell_length <= room:
        return [Content.assemble(first, "  ", behind)]
    return [first, Content.assemble("  ", behind)]
