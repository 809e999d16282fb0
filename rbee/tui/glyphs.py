"""Characters and short texts: glyph sets, bars, sparklines, sizes and durations.

Pure text in, text out, each glyph one cell; colours belong to the widgets.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, fields

from rbee.tui import cells

GIB = 1 << 30


@dataclass(eq=False)
class Glyphs:
    """One character per meaning; `spark` is a ramp from nothing to full.

    An app has one, which its widgets hold: `become` changes what all of them draw.
    """

    logo: str
    logo_hollow: str
    ready: str
    loading: str
    offline: str
    failed: str
    done: str
    running: str
    queued: str
    cancelled: str
    bar: str
    track: str
    spark: str
    na: str
    dot: str
    more: str
    cursor: str
    prompt: str
    up: str
    down: str
    hatch: str
    edge: str
    arrow: str
    times: str
    spinner: str
    crumb: str
    plain: bool = False
    """Whether every character is ASCII."""

    def become(self, other: Glyphs) -> None:
        """Have the characters of another set."""
        for each in fields(self):
            setattr(self, each.name, getattr(other, each.name))

    def meter(self, fraction: float | None, width: int) -> tuple[str, str]:
        """A bar of `width` cells as (filled, rest); an unknown value is all rest."""
        full = 0 if fraction is None else round(max(0.0, min(1.0, fraction)) * width)
        return self.bar * full, self.track * (width - full)

    def sparkline(self, values: Iterable[float], width: int, top: float) -> str:
        """The last `width` values, 0…`top`, oldest first; shorter while there are fewer."""
        steps = len(self.spark) - 1
        kept = list(values)[-width:] if width > 0 else []
        return "".join(
            self.spark[round(max(0.0, min(1.0, value / top)) * steps) if top > 0 else 0]
            for value in kept
        )

    def clip(self, text: str, width: int) -> str:
        """`text`, made safe, in at most `width` cells; a mark where something was left out."""
        return cells.clip(cells.safe(text), width, self.more)


UNICODE = Glyphs(
    logo="⬢",
    logo_hollow="⬡",
    ready="●",
    loading="◐",
    offline="○",
    failed="✗",
    done="✓",
    running="▸",
    queued="…",
    cancelled="⊘",
    bar="━",
    track="─",
    spark="▁▂▃▄▅▆▇█",
    na="·",
    dot="·",
    more="…",
    cursor="▌",
    prompt="❯",
    up="↑",
    down="↓",
    hatch="╱",
    edge="▏",
    arrow="→",
    times="×",
    spinner="⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏",
    crumb="›",
)
ASCII = Glyphs(
    logo="#",
    logo_hollow="o",
    ready="*",
    loading="o",
    offline="-",
    failed="x",
    done="+",
    running=">",
    queued=".",
    cancelled="/",
    bar="=",
    track="-",
    spark=" .:-=+*#",
    na="-",
    dot="|",
    more="~",
    cursor=">",
    prompt=">",
    up="^",
    down="v",
    hatch="/",
    edge="|",
    arrow="->",
    times="x",
    spinner="|/-\\",
    crumb=">",
    plain=True,
)


def duration(seconds: float) -> str:
    """`4s`, `44m`, `1h02m`, `3d04h`: at most five or six cells."""
    total = max(0, int(seconds))
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m"
    if total < 86400:
        return f"{total // 3600}h{total % 3600 // 60:02d}m"
    return f"{total // 86400}d{total % 86400 // 3600:02d}h"


def gib(size: int) -> str:
    """Bytes as GiB: one decimal below 100, none from there on."""
    value = size / GIB
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def total_gib(size: int) -> str:
    """A capacity in whole GiB; below 10 GiB with a decimal unless it is whole."""
    value = size / GIB
    return f"{value:.1f}" if value < 10 and abs(value - round(value)) > 0.05 else f"{value:.0f}"


def wall_time(at: float) -> str:
    """UTC seconds as the local time of day."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def rate(value: float | None, na: str) -> str:
    """Tokens per second with one decimal."""
    return na if value is None else f"{value:.1f}"
