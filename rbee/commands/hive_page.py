"""How one machine looks on the command line: in sections, each with what is there and what is not.

Owns the page of a machine. Pure, as `hive_tables` is: asks nobody and prints nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rbee import __version__
from rbee.commands.hive_tables import (
    NOTHING,
    ago,
    host_of,
    latency,
    seen_at,
    state_of,
    trouble,
    version_of,
    via_of,
    wrapped,
)
from rbee.commands.tables import clip, table
from rbee.core.backends import extras_with
from rbee.machine_words import times
from rbee.narration import printable
from rbee.output import duration, moment, size
from rbee.protocol.hives import Device, HiveInfo

_LABEL = 14
_INDENT = "  "
_UNDER = "    "
_EXTRA = re.compile(r"rbee\[([a-z0-9_-]+)\]")


def shown(hive: HiveInfo, *, width: int | None, now: float, ours: str = __version__) -> list[str]:
    """All of a machine, in sections."""
    out = [printable(hive.name)]
    wrong = trouble(hive, ours)
    if wrong is not None:
        out += wrapped(_INDENT, wrong.reason, width)
        if wrong.action:
            out += wrapped(f"{_INDENT}→ ", wrong.action, width)
    out += _section("how it is reached", fields(_reached(hive, now), width))
    out += _section("what is there", fields(_there(hive, ours), width))
    if hive.devices or hive.absent_devices:
        last = "" if hive.online else ", as it was last seen"
        out += _section(f"devices{last}", _devices(hive, width))
    if hive.backends or hive.absent_backends:
        last = "" if hive.online else ", as it was last seen"
        out += _section(f"backends{last}", _backends(hive, width))
    if hive.online and wrong is None:
        out += ["", f'rbee infer --hive {printable(hive.name)} --model MODEL "…"']
    return out


def fields(pairs: Sequence[tuple[str, str]], width: int | None) -> list[str]:
    """`name  value`, those that have one."""
    lines: list[str] = []
    for name, value in pairs:
        if value:
            lines += wrapped(f"{_INDENT}{name:<{_LABEL}}", value, width)
    return lines


def extra_action(hive: HiveInfo, action: str) -> str:
    """An action that is meant for a shell of that machine, as a command of ours where it is one."""
    wanted = _EXTRA.search(action)
    if hive.record is None or wanted is None:
        return action
    have = (backend.name for backend in hive.backends)
    extras = extras_with(wanted[1], have, hive.devices)
    return f"rbee hive install {hive.name} " + " ".join(f"--extra {extra}" for extra in extras)


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", title, *lines] if lines else []


def _reached(hive: HiveInfo, now: float) -> list[tuple[str, str]]:
    link, record = hive.link, hive.record
    host = host_of(hive)
    if hive.hostname and hive.hostname != host:
        host = f"{host} (calls itself {hive.hostname})"
    lost = f", lost {times(link.losses)}" if link and link.losses else ""
    fast = f", {latency(link.latency_ms)}" if link and link.up and link.latency_ms else ""
    out = [
        ("state", state_of(hive)),
        ("host", host),
        ("via", f"{via_of(hive)}{fast}{lost}"),
        ("seen", "now" if hive.online else ago(seen_at(hive), now)),
    ]
    if record is not None:
        wake = f", up {duration(record.wake_seconds)} after a call" if record.wake_seconds else ""
        out += [
            ("added", moment(record.added_at)),
            ("host key", record.fingerprint or ""),
            ("streams", "" if record.forward == "auto" else f"{record.forward} only"),
            ("wakes by", f"{record.mac}{wake}" if record.mac else ""),
        ]
    return [*out, ("labels", ", ".join(f"{k}={v}" for k, v in sorted(hive.labels.items())))]


def _there(hive: HiveInfo, ours: str) -> list[tuple[str, str]]:
    record, theirs = hive.record, version_of(hive)
    disk = ""
    if hive.disk_free is not None and hive.disk_total:
        disk = f"{size(hive.disk_free)} of {size(hive.disk_total)} free"
    out = [
        ("rbee", f"{theirs}{'' if theirs == ours else f' ({ours} here)'}" if theirs else "none"),
        ("models in", hive.models_dir or (record.models_dir if record else "") or ""),
        ("disk", disk),
        ("workers", str(hive.workers)),
    ]
    if record is not None:
        out += [("installed in", record.path or ""), ("python", record.python or "")]
    return out


def _devices(hive: HiveInfo, width: int | None) -> list[str]:
    lines: list[str] = []
    if hive.devices:
        rows = [_device(device) for device in hive.devices]
        told = table(["device", "what", "free", "of", "use"], rows)
        lines += [clip(_INDENT + line, width) for line in told]
    for one in hive.absent_devices:
        lines += _absent(hive, one.name, one.reason, one.action, width)
    return lines


def _device(device: Device) -> list[str]:
    busy = f"{device.utilisation:.0f} %" if device.utilisation is not None else NOTHING
    free, total = size(device.memory_free), size(device.memory_total)
    return [device.name, device.label, free, total, busy]


def _backends(hive: HiveInfo, width: int | None) -> list[str]:
    lines: list[str] = []
    if hive.backends:
        rows = [[b.name, ", ".join(b.formats), ", ".join(b.devices)] for b in hive.backends]
        told = table(["backend", "formats", "on"], rows)
        lines += [clip(_INDENT + line, width) for line in told]
    for one in hive.absent_backends:
        lines += _absent(hive, one.name, one.reason, one.action, width)
    return lines


def _absent(hive: HiveInfo, name: str, reason: str, action: str, width: int | None) -> list[str]:
    lines = wrapped(f"{_INDENT}no {printable(name)}: ", reason, width)
    if action:
        lines += wrapped(f"{_UNDER}→ ", extra_action(hive, action), width)
    return lines
