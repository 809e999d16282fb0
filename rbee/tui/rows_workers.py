"""Workers as rows and as facts: what the Workers screen writes.

Pure functions from the store's values to lines; layout and keys belong to the screen.
"""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import replace

from rbee.protocol.base import builtins
from rbee.protocol.hives import Device
from rbee.protocol.operations import WorkerSpawn
from rbee.protocol.workers import WorkerInfo, WorkerState
from rbee.tui.glyphs import Glyphs, duration, gib, rate, total_gib, wall_time
from rbee.tui.past import WorkerPast
from rbee.tui.rows import WORKER_COLUMNS, WorkerRows, load_role, state_word, worker_row
from rbee.tui.store import ColonyStore
from rbee.tui.texts import fact, spread, wrapped
from rbee.tui.widgets.lines import Line, Span
from rbee.tui.widgets.table import Column, Row

COLUMNS = (*WORKER_COLUMNS, Column("pin", "pin", 4))
LIVING = frozenset({WorkerState.LOADING, WorkerState.IDLE, WorkerState.BUSY})


def kept_rows() -> WorkerRows:
    """What a screen holds so that rows that are as they were are kept."""
    return WorkerRows(_row)


def rows(store: ColonyStore, glyphs: Glyphs, kept: WorkerRows) -> list[Row]:
    """All workers, then the last that went."""
    now = store.clock()
    there = kept.rows(store.worker_list(), glyphs, now)
    return there + [_gone(past, glyphs, now) for past in store.past.departed()]


def _row(worker: WorkerInfo, glyphs: Glyphs, now: float) -> Row:
    row = worker_row(worker, glyphs, now)
    cells = dict(row.cells)
    if worker.draining and worker.state in LIVING:
        cells["state"] = ("draining", "warn")
    cells["pin"] = (glyphs.done, "key") if worker.pinned else (glyphs.na, "muted")
    return replace(row, cells=cells)


def _gone(past: WorkerPast, glyphs: Glyphs, now: float) -> Row:
    row = _row(past.last, glyphs, now)
    word, role = ("lost", "bad") if past.failed else ("gone", "muted")
    mark = glyphs.failed if past.failed else glyphs.offline
    na: Span = (glyphs.na, "muted")
    cells = row.cells | {"state": (word, role), "slots": na, "rate": na, "up": na}
    return replace(row, mark=(mark, role), cells=cells)


def wish_of(worker: WorkerInfo) -> WorkerSpawn:
    """What would start one like it, in the same place."""
    return WorkerSpawn(
        model=worker.model,
        hive=worker.hive,
        backend=worker.backend or None,
        device=worker.device,
        slots=worker.slots_total or None,
        ctx=worker.ctx or None,
        pin=worker.pinned,
    )


def info_lines(past: WorkerPast, store: ColonyStore, glyphs: Glyphs, width: int) -> list[Line]:
    """State and history, memory against the need, slots, and who was there before."""
    worker, now = past.last, store.clock()
    dot = f" {glyphs.dot} "
    title = [f"{worker.model} on {worker.hive} {worker.device}"]
    title += [f"pid {worker.pid}"] if worker.pid else []
    title += ["pinned"] if worker.pinned else []
    lines: list[Line] = [((f" {row}", "strong"),) for row in wrapped(dot.join(title), width - 2)]
    lines += fact("state", _state(past, now), width)
    steps = [f"{state_word(state)} {wall_time(at)}" for at, state in past.steps]
    if past.gone_at is not None:
        steps.append(f"gone {wall_time(past.gone_at)}")
    lines += fact("history", f" {glyphs.arrow} ".join(steps), width)
    if past.gone_at is not None:
        lines += fact("why", past.reason, width, role="bad" if past.failed else "text")
    elif worker.error or worker.state is WorkerState.FAILED:
        lines += fact("error", worker.error or "no reason was given", width, role="bad")
    if past.gone_at is None:
        lines += _memory(worker, store, glyphs, width)
        lines += _slots(worker, glyphs, width)
    return lines + _before(past, store, width)


def _state(past: WorkerPast, now: float) -> str:
    worker = past.last
    if past.gone_at is not None:
        return f"gone {duration(now - past.gone_at)} ago"
    progress = "" if worker.progress is None else f" {worker.progress:.0%}"
    words = [f"{state_word(worker.state)}{progress}"]
    if worker.stage and worker.stage != worker.state.value:
        words.append(worker.stage)
    if worker.draining:
        words.append("draining: it takes nothing more and stops when what it runs has ended")
    if worker.started_at:
        words.append(f"up {duration(now - worker.started_at)}")
    if worker.state is WorkerState.IDLE:
        words.append(f"idle {duration(worker.idle_seconds)}")
    if worker.last_beat_at is not None:
        words.append(f"heard {duration(now - worker.last_beat_at)} ago")
    return ", ".join(words)


def need(worker: WorkerInfo, store: ColonyStore) -> int | None:
    """Bytes that its shape takes by what the model says of itself; None where that is not known."""
    model = next((each for each in store.models if each.id == worker.model), None)
    if model is None or not model.weights_bytes or not worker.ctx or not worker.slots_total:
        return None
    return model.memory_needed(
        ctx=worker.ctx,
        slots=worker.slots_total,
        device_kind=worker.device.partition(":")[0],
        backend=worker.backend,
    )


def _device(worker: WorkerInfo, store: ColonyStore) -> Device | None:
    hive = store.hives.get(worker.hive)
    devices = hive.devices if hive is not None else []
    return next((device for device in devices if device.name == worker.device), None)


def _memory(worker: WorkerInfo, store: ColonyStore, glyphs: Glyphs, width: int) -> list[Line]:
    device, takes = _device(worker, store), need(worker, store)
    lines: list[Line] = []
    kind = "ram" if worker.device == "cpu" else "vram"
    if device is not None and device.memory_total > 0:
        share = device.memory_used / device.memory_total
        full, rest = glyphs.meter(share, max(4, min(24, width - 40)))
        used = f" {gib(device.memory_used)}/{total_gib(device.memory_total)}G"
        needs = "" if takes is None else f"   needs {gib(takes)}G"
        lines.append(
            spread(
                kind,
                [(full, load_role(share)), (rest, "track"), (used, "text"), (needs, "muted")],
            )
        )
    own = f"model {gib(worker.memory_bytes)}G, process {gib(worker.rss_bytes)}G"
    if worker.memory_bytes or worker.rss_bytes:
        lines += fact("its own", f"{own}, cpu {worker.cpu_percent:.0f}%", width)
    return lines


def _slots(worker: WorkerInfo, glyphs: Glyphs, width: int) -> list[Line]:
    if not worker.slots_total:
        return []
    full, rest = glyphs.meter(
        worker.slots_busy / worker.slots_total, max(4, min(worker.slots_total, width - 40))
    )
    words = f" {worker.slots_busy}/{worker.slots_total}, {worker.ctx} tokens each"
    return [spread("slots", [(full, "ok"), (rest, "track"), (words, "text")])]


def _before(past: WorkerPast, store: ColonyStore, width: int) -> list[Line]:
    gone = store.past.before(past.last)
    if not gone:
        return []
    lines: list[Line] = [(), ((f" Before it, here: {len(gone)}", "strong"),)]
    for each in gone[:5]:
        role = "bad" if each.failed else "text"
        when = wall_time(each.gone_at or 0.0)
        lines += fact(each.last.worker_id, f"{when} {each.reason}", width, role=role)
    return lines


def metric_lines(past: WorkerPast, glyphs: Glyphs, width: int) -> list[Line]:
    """Speed, slots in use and first tokens, as far as the screens have seen them."""
    lines: list[Line] = []
    worker = past.last
    room = max(8, width - 20)
    if any(past.speed):
        now = rate(worker.tokens_per_second if worker.state is WorkerState.BUSY else None, "0")
        lines += _graph("tok/s", past.speed, max(past.speed), f"{now}", room, glyphs)
        lines += fact("", f"best {max(past.speed):.1f} in the last {len(past.speed)} s", width)
    if worker.slots_total and any(past.busy):
        busy = f"{worker.slots_busy}/{worker.slots_total}"
        lines += _graph("slots", past.busy, float(worker.slots_total), busy, room, glyphs)
    if past.speeds:
        speeds = list(past.speeds.values())
        lines += _graph("answers", speeds, max(speeds), f"{speeds[-1]:.1f} tok/s", room, glyphs)
    if past.first_tokens:
        waits = list(past.first_tokens.values())
        count = len(waits)
        lines += _graph("ttft", waits, max(waits), _seconds(waits[-1]), room, glyphs)
        lines += fact(
            "",
            f"half of {count} job{'s'[: count > 1]} within {_seconds(statistics.median(waits))},"
            f" all within {_seconds(max(waits))}",
            width,
        )
    if not lines:
        sentence = "Nothing was asked of it since this screen came up, so there is nothing to draw."
        lines = [((f" {row}", "muted"),) for row in wrapped(sentence, width - 2)]
    return lines


def _graph(
    name: str, values: Sequence[float], top: float, figure: str, room: int, glyphs: Glyphs
) -> list[Line]:
    spark = glyphs.sparkline(values, room, max(top, 0.001))
    return [spread(name, [(spark.ljust(min(room, 60)), "high"), (f" {figure}", "text")])]


def _seconds(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.2f} s"


def spec_lines(past: WorkerPast, store: ColonyStore, width: int) -> list[Line]:
    """What it was started with, and what would start another one like it from a shell."""
    worker = past.last
    facts = [
        ("model", worker.model + (f" ({worker.quant})" if worker.quant else "")),
        ("backend", worker.backend),
        ("where", f"{worker.hive} {worker.device}"),
        ("slots", f"{worker.slots_total} of {worker.ctx} tokens" if worker.slots_total else ""),
        ("pinned", "yes" if worker.pinned else "no"),
        ("address", worker.url or ""),
        ("log", worker.log_path or ""),
    ]
    lines = [line for name, value in facts if value for line in fact(name, value, width)]
    lines += [(), ((" One like it, from a shell", "strong"),)]
    command = start_command(worker, store)
    return lines + [((f" {row}", "text"),) for row in wrapped(command, width - 2)]


def start_command(worker: WorkerInfo, store: ColonyStore) -> str:
    """A shell command that asks the queen for a worker like this one."""
    wanted = builtins(wish_of(worker))
    body = json.dumps({name: value for name, value in wanted.items() if value not in (None, False)})
    return f"curl {(store.address or store.url or '')}/v1/jobs -d {shlex.quote(body)}"
