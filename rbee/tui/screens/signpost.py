"""Signpost: a mode whose screen is not part of this version says so and names the command.

One class for seven modes; the words are in the registry of modes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.containers import Center, Middle
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from rbee.tui.keymap import MODES, Mode
from rbee.tui.screens.base import ColonyScreen


class Signpost(ColonyScreen):
    """A calm panel in the middle."""

    mode: ClassVar[Mode]

    def body(self) -> Iterable[Widget]:
        mode = self.mode
        commands = Content("\n").join(
            Content.assemble(("  $ ", "$muted"), (command, "$primary bold"))
            for command in mode.commands
        )
        card = Static(
            Content("\n").join(
                [
                    Content.styled(mode.job, "$foreground"),
                    Content(""),
                    Content.styled(mode.note, "$muted"),
                    commands,
                ]
            ),
            classes="signpost",
        )
        card.border_title = mode.title
        with_middle = Middle(Center(card), classes="hatched")
        return [with_middle]


def signposts() -> dict[str, type[Signpost]]:
    """A class per mode that has words but no screen."""
    return {
        mode.name: type(
            f"{mode.name.title()}Signpost", (Signpost,), {"MODE": mode.name, "mode": mode}
        )
        for mode in MODES
        if mode.job
    }
