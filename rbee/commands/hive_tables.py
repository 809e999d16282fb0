"""How machines look on the command line: the list of them, those that are near, a check.

Owns lines and columns, and what is said of a machine that is not as it should be. Pure: asks nobody
and prints nothing. Every text that came from elsewhere is stripped of what could steer a terminal.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rbee import __version__
from rbee.commands.tables import clip, table
from rbee.narration import printable
from rbee.output import duration, milliseconds
from rbee.protocol.hives import HiveInfo
from rbee.protocol.machines import HiveChecked, Nearby

NOTHING = "·"
COLUMNS = ("hive", "state", "host", "via", "latency", "rbee", "devices", "workers", "seen")
DROPPED = ("via", "host", "workers", "latency", "seen")
"""In this order, where the terminal is narrow."""
REACHED = frozenset({"online", "other version", "stopped"})
"""States in which it matters which rbee is there."""
_UNDER = "    "
_LEAST = 24
"""Columns; in fewer nothing is wrapped any more."""


@dataclass(frozen=True)
class Trouble:
    """Why a machine is not as it should be, and the command or deed that changes it."""

    reason: str
    action: str = ""


def state_of(hive: HiveInfo) -> str:
    """One or two words."""
    return hive.state or ("online" if hive.online else "offline")


def version_of(hive: HiveInfo) -> str | None:
    """The rbee there, as far as is known."""
    return hive.version or (hive.record.version if hive.record else None)


def trouble(hive: HiveInfo, ours: str = __version__) -> Trouble | None:
    """What keeps a machine from being of use, or will when it is reached; None: nothing."""
    theirs, state, link = version_of(hive), state_of(hive), hive.link
    if theirs not in (None, "", ours) and state in REACHED:
        why = f"rbee {theirs} is there, {ours} here"
        if hive.record is None:
            return Trouble(why, "Start it again from the same installation.")
        return Trouble(why, f"rbee hive upgrade {hive.name}")
    if hive.online:
        return None
    usual = _USUAL.get(state, _USUAL["offline"])
    told = link.reason if link and link.reason else usual.reason
    if link is not None and link.next_try_s is not None:
        told = f"{told}; next try in {duration(max(0.0, link.next_try_s))}"
    action = link.action if link and link.action else usual.action.replace("NAME", hive.name)
    return Trouble(told, action)


_USUAL = {
    "not installed": Trouble("rbee is not installed there", "rbee hive install NAME"),
    "stopped": Trouble("it was stopped", "rbee hive start NAME"),
    "connecting": Trouble("it is being reached"),
    "working": Trouble("an operation is under way there", "rbee job list"),
    "refused": Trouble("it did not let us in", "rbee hive refresh NAME"),
    "offline": Trouble("it does not answer", "rbee hive refresh NAME"),
}


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


def add_name(name: str) -> str:
    """What a machine could be called: the first label of its name, as far as a hive's allows."""
    label = re.sub(r"[^a-z0-9-]+", "-", name.lower().partition(".")[0]).strip("-")
    return label[:63].strip("-") or "NAME"


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


def host_of(hive: HiveInfo) -> str:
    """Where it is: as it was added, else what it calls itself."""
    return (hive.record.target if hive.record else hive.hostname) or NOTHING


def via_of(hive: HiveInfo) -> str:
    """How it is reached."""
    return hive.link.via if hive.link else {"local": "here"}.get(hive.kind, hive.kind)


def latency(ms: float | None) -> str:
    """A time that may be far below a millisecond: `0.4 ms`."""
    if ms is None:
        return NOTHING
    return f"{ms:.1f} ms" if ms < 10 else milliseconds(ms)


def ago(then: float | None, now: float) -> str:
    """`4 min ago`."""
    return f"{duration(max(0.0, now - then))} ago" if then else "never"


def times(count: int) -> str:
    """`once`, `3 times`."""
    return "once" if count == 1 else f"{count} times"


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


def seen_at(hive: HiveInfo) -> float | None:
    """When it was last heard of, UTC seconds."""
    return hive.last_seen_at or (hive.record.connected_at if hive.record else None)
