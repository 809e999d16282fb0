"""What the Hives screen says of machines: rows of the two tables, and all of one in its panel.

Pure functions from the store's values to (text, role); layout belongs to the widgets. Every text of
a machine or of the ssh config is made printable here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from rbee.machine_words import (
    NOTHING,
    host_of,
    latency,
    seen_at,
    state_of,
    times,
    trouble,
    version_of,
)
from rbee.output import moment, size
from rbee.protocol.hives import HiveInfo
from rbee.protocol.machines import Nearby
from rbee.tui.errand import Errand
from rbee.tui.glyphs import Glyphs, duration
from rbee.tui.rows import device_line, history_line
from rbee.tui.rows_errand import errand_lines, plain, wrapped
from rbee.tui.store import DeviceView
from rbee.tui.widgets.lines import Line, Span
from rbee.tui.widgets.table import Column, Row

HIVE_COLUMNS = (
    Column("hive", "hive", 10, grow=True, least=8),
    Column("state", "state", 12, grow=True, least=9),
    Column("address", "address", 15, grow=True, least=10),
    Column("via", "via", 7, extra=True),
    Column("rbee", "rbee", 9, grow=True, least=8),
    Column("devices", "devices", 13, grow=True, least=9),
    Column("work", "work", 5),
    Column("load", "load", 5),
    Column("beat", "beat", 6, least=5),
)
FEWER_COLUMNS = tuple(each for each in HIVE_COLUMNS if each.key not in ("load", "beat"))
"""Where all of them would be cut: the panel tells the rest."""
ALL_FROM = 74
"""Cells in which they all fit."""
NEARBY_COLUMNS = (
    Column("name", "name", 14, grow=True, least=8),
    Column("target", "target", 18, grow=True, least=8),
    Column("source", "known from", 12, extra=True),
    Column("note", "", 18, grow=True, least=8),
)
_LOOKS = {
    "online": ("ready", "ok"),
    "connecting": ("loading", "warn"),
    "working": ("loading", "warn"),
    "other version": ("failed", "bad"),
    "refused": ("failed", "bad"),
}
_KEYS = {"install": "i", "upgrade": "i", "start": "x", "refresh": "r"}
"""Verb of a command → the key that does the same."""
_LABEL = 9
Facts = list[tuple[str, str]]


def hive_row(
    hive: HiveInfo,
    views: Sequence[DeviceView],
    errand: Errand | None,
    beat: float | None,
    glyphs: Glyphs,
    now: float,
    *,
    ours: str,
) -> Row:
    """A machine as a row. `beat`: when its telemetry last came; `ours`: the queen's rbee."""
    word, role, mark = _state(hive, errand, glyphs)
    loads = [v.device.utilisation for v in views if v.device.utilisation is not None]
    busy = f"{sum(loads) / len(loads):.0f}%" if hive.online and loads else glyphs.na
    version, newer = version_cell(hive, ours, glyphs)
    return Row(
        key=hive.name,
        mark=(mark, role),
        command=f"rbee hive show {hive.name}",
        cells={
            "hive": (plain(hive.name), "strong"),
            "state": (word, role),
            "address": (address(hive), "name"),
            "via": (via(hive), "muted"),
            "rbee": (version, "warn" if newer else "muted"),
            "devices": (devices(hive, glyphs), "text"),
            "work": (str(hive.workers) if hive.online else glyphs.na, "text"),
            "load": (busy, "text"),
            "beat": (_beat(hive, beat, glyphs, now), "muted"),
        },
    )


def errand_row(errand: Errand, glyphs: Glyphs) -> Row:
    """A machine that is being added, or could not be."""
    if errand.awaits_key is not None:
        word, role, mark = "host key?", "warn", glyphs.loading
    elif errand.ended:
        word, role, mark = "not added", "bad", glyphs.failed
    else:
        word, role, mark = errand.verb, "warn", glyphs.loading
    return Row(
        key=errand.hive,
        mark=(mark, role),
        command=f"rbee job show {errand.job_id}",
        cells={"hive": (plain(errand.hive), "strong"), "state": (word, role)},
    )


def nearby_row(found: Nearby, glyphs: Glyphs) -> Row:
    """A machine that could be added, or was."""
    if found.added_as is not None:
        note, mark = f"is {found.added_as}", (glyphs.done, "ok")
    elif found.answers is False:
        note, mark = found.detail or "does not answer", (glyphs.offline, "muted")
    else:
        answers = "answers" if found.answers else ""
        rbee = f"rbee {found.version}" if found.version else ""
        told = [part for part in (answers, rbee, found.detail) if part]
        note, mark = ", ".join(told), (glyphs.dot, "text")
    return Row(
        key=found.target,
        mark=mark,
        command=f"rbee hive add NAME {plain(found.target)}",
        cells={
            "name": (plain(found.name), "strong"),
            "target": (plain(found.target), "text"),
            "source": (found.source, "muted"),
            "note": (plain(note), "muted"),
        },
    )


def address(hive: HiveInfo) -> str:
    """Where it is."""
    if hive.kind == "local":
        return "this machine"
    target = hive.record.target if hive.record else hive.url or hive.hostname or NOTHING
    return plain(target.rpartition("@")[2])


def via(hive: HiveInfo) -> str:
    """How it is reached."""
    return hive.link.via if hive.link else hive.kind


def devices(hive: HiveInfo, glyphs: Glyphs) -> str:
    """`2× RTX 3090`, `RTX 4060, cpu`; the CPU only where there is nothing else."""
    labels = Counter(plain(d.label) for d in hive.devices if d.kind != "cpu")
    if not labels:
        return next((f"cpu {plain(d.label)}" for d in hive.devices), glyphs.na)
    counted = ((label, f"{n}{glyphs.times} " if n > 1 else "") for label, n in labels.items())
    return ", ".join(f"{count}{label}" for label, count in counted)


def version_cell(hive: HiveInfo, ours: str, glyphs: Glyphs) -> tuple[str, bool]:
    """The rbee there, with an arrow where the queen's is newer or older; whether it is another."""
    theirs = plain(version_of(hive) or "")
    if not theirs:
        return "none" if hive.record is not None else glyphs.na, False
    if not ours or theirs == ours:
        return theirs, False
    return f"{theirs} {glyphs.down if _numbers(theirs) > _numbers(ours) else glyphs.up}", True


def machine_lines(
    hive: HiveInfo,
    views: Sequence[DeviceView],
    errand: Errand | None,
    glyphs: Glyphs,
    width: int,
    now: float,
    *,
    ours: str,
    wide: bool,
) -> list[Line]:
    """All of a machine, what matters most first."""
    lines: list[Line] = []
    if errand is not None:
        lines += [*errand_lines(errand, glyphs, width, wide=wide), ()]
    wrong = trouble(hive, ours) if errand is None or errand.ended else None
    if wrong is not None:
        lines += wrapped(f"{_state(hive, None, glyphs)[2]} {wrong.reason}", width, "warn", more=2)
        if wrong.action:
            lines += _remedy(wrong.action, glyphs, width)
        lines.append(())
    known = fact_lines(facts(hive, glyphs, now, ours=ours), width)
    equipment = device_lines(hive, views, glyphs, width, wide=wide)
    first, second = (known, equipment) if wide else (equipment, known)
    return [*lines, *first, *([()] if first and second else []), *second]


def device_lines(
    hive: HiveInfo, views: Sequence[DeviceView], glyphs: Glyphs, width: int, *, wide: bool
) -> list[Line]:
    """A line for each device, and its last minute where there is room; what is not there, and
    why."""
    lines: list[Line] = []
    if hive.devices and not hive.online:
        lines.append(((" devices, as they were last seen", "muted"),))
    for view in views:
        lines.append(device_line(view, glyphs, width))
        if hive.online and wide and view.history:
            lines.append(history_line(view, glyphs, width))
    for absent in hive.absent_devices:
        lines += wrapped(f"no {absent.name}: {absent.reason}", width, "muted", more=4, most=2)
    return lines


def _remedy(action: str, glyphs: Glyphs, width: int) -> list[Line]:
    """What helps; where a key of this screen does it, that first."""
    key = next((key for verb, key in _KEYS.items() if action.startswith(f"rbee hive {verb} ")), "")
    if not key:
        return wrapped(f"{glyphs.arrow} {action}", width, "text", more=2)
    told = glyphs.clip(plain(action), width - 10)
    return [((f" {glyphs.arrow} ", "text"), (key, "key"), (f"  {told}", "muted"))]


def fact_lines(pairs: Facts, width: int) -> list[Line]:
    """Name and value; a value that is too long goes on below."""
    lines: list[Line] = []
    for name, value in pairs:
        rows = wrapped(value, width - _LABEL, "text", lead="", most=3)
        for at, row in enumerate(rows):
            label: Span = (f" {name if at == 0 else '':<{_LABEL}}", "muted")
            lines.append((label, *row))
    return lines


def facts(hive: HiveInfo, glyphs: Glyphs, now: float, *, ours: str) -> Facts:
    """What is known of a machine, without its devices; only what is known."""
    record, link = hive.record, hive.link
    lost = f", lost {times(link.losses)}" if link and link.losses else ""
    fast = f", {latency(link.latency_ms)} there and back" if link and link.latency_ms else ""
    seen = seen_at(hive)
    ago = "" if hive.online else f"{duration(max(0.0, now - seen))} ago" if seen else "never"
    theirs = version_of(hive)
    other = f" {_older(theirs, ours, glyphs)}" if theirs and ours and theirs != ours else ""
    disk = ""
    if hive.disk_free is not None and hive.disk_total:
        disk = f"{size(hive.disk_free)} of {size(hive.disk_total)} free"
    models = hive.models_dir or (record.models_dir if record else None) or ""
    system = f"{hive.os}{f', calls itself {hive.hostname}' if hive.hostname else ''}"
    pairs = [
        ("where", "this machine" if hive.kind == "local" else host_of(hive)),
        ("link", f"{via(hive)}{fast}{lost}" if hive.kind != "local" else ""),
        ("host key", record.fingerprint or "" if record else ""),
        ("seen", ago),
        ("system", system.removeprefix(", ")),
        ("rbee", f"{theirs}{other}" if theirs else "not installed"),
        ("models", models),
        ("disk", disk),
        ("workers", str(hive.workers) if hive.workers else ""),
        ("labels", ", ".join(f"{k}={v}" for k, v in sorted(hive.labels.items()))),
        ("wakes by", record.mac if record and record.mac else ""),
        ("added", moment(record.added_at) if record else ""),
    ]
    return [(name, plain(value)) for name, value in pairs if value]


def _older(theirs: str, ours: str, glyphs: Glyphs) -> str:
    if _numbers(theirs) > _numbers(ours):
        return f"there, {ours} here"
    return f"{glyphs.arrow} {ours} available"


def _state(hive: HiveInfo, errand: Errand | None, glyphs: Glyphs) -> tuple[str, str, str]:
    """Word, role and glyph."""
    if errand is not None and not errand.ended:
        return errand.verb, "warn", glyphs.loading
    state = state_of(hive)
    name, role = _LOOKS.get(state, ("offline", "muted"))
    return plain(state), role, str(getattr(glyphs, name))


def _beat(hive: HiveInfo, beat: float | None, glyphs: Glyphs, now: float) -> str:
    """How long ago it was last heard of."""
    at = max((t for t in (beat, seen_at(hive)) if t is not None), default=None)
    if at is None or state_of(hive) == "not installed":
        return glyphs.na
    ago = max(0.0, now - at)
    return f"{ago:.1f}s" if ago < 10 else duration(ago)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d{1,9}", version)]
