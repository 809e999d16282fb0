"""How machines look on the command line: the list of them, those that are near, a check.

Owns lines and columns, and what is said of a machine that is not as it should be. Pure: asks nobody
and prints nothing. Every text that came from elsewhere is stripped of what could steer a terminal.
"""

from __future__ import annotations

import shlex
import textwrap
from collections import Counter
from collections.abc import Sequence

from rbee import __version__
from rbee.commands.tables import clip, table
from rbee.machine_words import (
    NOTHING,
    add_name,
    host_of,
    latency,
    seen_at,
    state_of,
    trouble,
    version_of,
    via_of,
)
from rbee.narration import printable
from rbee.output import duration
from rbee.protocol.hives import HiveInfo
from rbee.protocol.machines import HiveChecked, Nearby

COLUMNS = ("hive", "state", "host", "via", "latency", "rbee", "devices", "workers", "seen")
DROPPED = ("via", "host", "workers", "latency", "seen")
"""In this order, where the terminal is narrow."""
_UNDER = "    "
_LEAST = 24
"""Columns; in fewer nothing is wrapped any more."""


def listed(
    hives: Sequence[HiveInfo], *, width: int | None, now: float, ours: str = __version__
) -> list[str]:
    """The table. Under what is not as it should be: why, and what to do. `now`: UTC seconds."""
    lines: list[str] = []
    for count in range(-1, len(DROPPED) + 1):
        columns = [name for name in COLUMNS if name not in DROPPED[: max(0, count)]]
        rows = [
            [_cell(hive, name, now=now, brief=count >= 0) for name in columns] for hive in hives
        ]
        lines = table(columns, rows, width=width)
        if len(lines) == len(rows) + 1:
            break
    each = len(lines) // (len(hives) + 1)
    out = lines[:each]
    for number, hive in enumerate(hives, 1):
        out += lines[number * each : (number + 1) * each]
        wrong = trouble(hive, ours)
        if wrong is not None:
            out += wrapped(_UNDER, wrong.reason, width)
            if wrong.action:
                out += wrapped(f"{_UNDER}→ ", wrong.action, width)
    return out


def around(found: Sequence[Nearby], *, width: int | None) -> list[str]:
    """The table of machines that are near, and the command that adds the first new one."""
    rows = [
        [
            one.name,
            one.target,
            one.source,
            {True: "yes", False: "no", None: NOTHING}[one.answers],
            one.version or NOTHING,
            one.added_as or NOTHING,
            one.detail,
        ]
        for one in found
    ]
    columns = ["name", "target", "known from", "answers", "rbee", "added as", ""]
    out = [clip(line, width) for line in table(columns, rows, width=width)]
    free = [one for one in found if one.added_as is None and one.answers is not False]
    if free:
        name, target = add_name(free[0].name), shlex.quote(printable(free[0].target))
        out += ["", f"rbee hive add {name}{'' if name == target else f' {target}'}"]
    return out


def checked(found: HiveChecked, *, width: int | None) -> list[str]:
    """The steps of the way there and back."""
    rows = [[latency(step.ms), step.step] for step in found.steps]
    lines = table(["took", "step"], rows) if rows else []
    same = " there and here" if found.version == found.queen_version else " there"
    here = "" if found.version == found.queen_version else f", {found.queen_version} here"
    said = f"{printable(found.hive)} works: rbee {printable(found.version or 'unknown')}"
    return [*(clip(line, width) for line in lines), f"{said}{same}{here}"]


def wrapped(lead: str, text: str, width: int | None) -> list[str]:
    """The text after `lead`, its further lines under its first. A command stays in one piece."""
    clean = printable(text)
    room = max(width or 0, len(lead) + _LEAST)
    if width is None or clean.startswith("rbee ") or len(lead) + len(clean) <= room:
        return [lead + clean]
    return textwrap.wrap(
        clean, room, initial_indent=lead, subsequent_indent=" " * len(lead),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def ago(then: float | None, now: float) -> str:
    """`4 min ago`."""
    return f"{duration(max(0.0, now - then))} ago" if then else "never"


def devices_of(hive: HiveInfo, *, brief: bool = False) -> str:
    """`cpu 8 cores, cuda:0 RTX 3090`; in brief `cpu, 2 cuda`."""
    if not brief:
        return ", ".join(f"{d.name} {d.label}" for d in hive.devices) or NOTHING
    kinds = Counter(device.kind for device in hive.devices)
    return ", ".join(k if n == 1 else f"{n} {k}" for k, n in kinds.items()) or NOTHING


def _cell(hive: HiveInfo, column: str, *, now: float, brief: bool) -> str:
    match column:
        case "hive":
            return hive.name
        case "state":
            return state_of(hive)
        case "host":
            return host_of(hive)
        case "via":
            return via_of(hive)
        case "latency":
            return latency(hive.link.latency_ms if hive.link and hive.link.up else None)
        case "rbee":
            return version_of(hive) or NOTHING
        case "devices":
            return devices_of(hive, brief=brief)
        case "workers":
            return str(hive.workers)
        case _:
            return "now" if hive.online else ago(seen_at(hive), now)
