"""How the screens look: glyphs, graphs, density, animations, refresh; put on an app at once.

Owns what the settings of `[tui]` mean for it. Colours are rbee.tui.themes' business.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from textual import constants

from rbee.settings_sections import TuiSettings
from rbee.tui.glyphs import ASCII, UNICODE, Glyphs

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp

RAMPS = {"blocks": UNICODE.spark, "braille": "⡀⣀⣄⣤⣦⣶⣷⣿", "ascii": ASCII.spark}
"""What graphs are drawn with, from nothing to full."""


def glyphs_for(tui: TuiSettings) -> Glyphs:
    """The set that the settings ask for; a spinner that stands still where nothing may move."""
    base = ASCII if tui.ascii else replace(UNICODE, spark=RAMPS[tui.graphs])
    return base if tui.animations else replace(base, spinner=base.loading)


def next_graphs(now: Glyphs) -> Glyphs:
    """The same with the ramp that follows; ASCII graphs only where all is ASCII."""
    ramps = [ASCII.spark] if now.plain else list(RAMPS.values())
    at = ramps.index(now.spark) + 1 if now.spark in ramps else 0
    return replace(now, spark=ramps[at % len(ramps)])


def put_on(app: RbeeApp, tui: TuiSettings) -> None:
    """Have the app look so from its next repaint on. Not its colours."""
    app.glyphs.become(glyphs_for(tui))
    app.set_class(tui.ascii, "-ascii")
    app.set_class(tui.density == "roomy", "-roomy")
    # Textual's variable says what the terminal can bear, and is not ours to exceed.
    app.animation_level = constants.TEXTUAL_ANIMATIONS if tui.animations else "none"
    app.refresh_seconds = tui.refresh
