"""What the dashboard's tables say: workers and jobs as rows of words, devices as lines.

Pure functions from the store's values to (text, role); layout belongs to the widgets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from rbee.narration import printable
from rbee.protocol.jobs import JobInfo, JobState
from rbee.protocol.workers import WorkerInfo, WorkerState
from rbee.tui.glyphs import Glyphs, duration, gib, rate, total_gib
from rbee.tui.store import DeviceView
from rbee.tui.widgets.lines import Line, Span, width_of
from rbee.tui.widgets.table import Column, Row

WORKER_COLUMNS = (
    Column("worker", "worker", 7, grow=True),
    Column("hive", "hive", 10, grow=True, least=6),
    Column("device", "device", 8),
    Column("model", "model", 17, grow=True, least=8),
    Column("backend", "backend", 11, extra=True),
    Column("state", "state", 13, least=9),
    Column("slots", "slots", 7),
    Column("rate", "tok/s", 7, extra=True),
    Column("up", "up", 7, extra=True),
)
JOB_COLUMNS = (
    Column("job", "job", 7, grow=True),
    Column("kind", "kind", 7),
    Column("model", "model", 17, grow=True, least=8),
    Column("worker", "worker", 6, grow=True),
    Column("state", "state", 11),
    Column("note", "note", 12, grow=True, least=6),
)
_KINDS = {
    "infer": "infer",
    "embed": "embed",
    "worker_spawn": "spawn",
    "worker_stop": "stop",
    "queen_check": "check",
    "status": "status",
}


def model_name(model: str) -> str:
    """A model as the tables write it: the part of a reference that people know it by."""
    name = model.rsplit("/", 1)[-1]
    return name.partition(":")[2] if name.startswith(("pkg:", "hf:", "file:")) else name


def state_word(state: WorkerState) -> str:
    """A worker's state in people's words."""
    return {WorkerState.IDLE: "ready", WorkerState.BUSY: "serving"}.get(state, state.value)


def worker_state(worker: WorkerInfo, glyphs: Glyphs) -> tuple[Span, str]:
    """((glyph, role), word) of a worker's state."""
    match worker.state:
        case WorkerState.IDLE | WorkerState.BUSY:
            return (glyphs.ready, "ok"), state_word(worker.state)
        case WorkerState.LOADING:
            percent = "" if worker.progress is None else f" {worker.progress:.0%}"
            return (glyphs.loading, "warn"), f"loading{percent}"
        case WorkerState.FAILED:
            memory = "out of memory" in (worker.error or "").lower()
            return (glyphs.failed, "bad"), "failed oom" if memory else "failed"
        case WorkerState.STOPPING | WorkerState.STOPPED:
            return (glyphs.offline, "muted"), worker.state.value


def worker_row(worker: WorkerInfo, glyphs: Glyphs, now: float) -> Row:
    """A worker as a row."""
    mark, word = worker_state(worker, glyphs)
    alive = worker.state in (WorkerState.IDLE, WorkerState.BUSY)
    slots = f"{worker.slots_busy}/{worker.slots_total}" if alive else glyphs.na
    speed = worker.tokens_per_second if worker.state is WorkerState.BUSY else None
    up = duration(now - worker.started_at) if worker.started_at and mark[1] != "bad" else glyphs.na
    return Row(
        key=worker.worker_id,
        mark=mark,
        command=f"rbee worker stop {worker.worker_id}",
        cells={
            "worker": (worker.worker_id, "strong"),
            "hive": (worker.hive, "name"),
            "device": (worker.device, "text"),
            "model": (model_name(worker.model), "text"),
            "backend": (worker.backend, "muted"),
            "state": (word, mark[1]),
            "slots": (slots, "text" if alive else "muted"),
            "rate": (rate(speed, glyphs.na), "text" if speed is not None else "muted"),
            "up": (up, "muted"),
        },
    )


class WorkerRows:
    """The rows of workers; a worker that is what it was last time keeps its row."""

    def __init__(self, make: Callable[[WorkerInfo, Glyphs, float], Row] = worker_row) -> None:
        self._make = make
        self._kept: dict[str, tuple[WorkerInfo, object, Row]] = {}

    def rows(self, workers: Iterable[WorkerInfo], glyphs: Glyphs, now: float) -> list[Row]:
        """In the order of `workers`. `now`: UTC seconds."""
        kept: dict[str, tuple[WorkerInfo, object, Row]] = {}
        for worker in workers:
            age = duration(now - worker.started_at) if worker.started_at else ""
            stamp = (age, glyphs.bar)
            known = self._kept.get(worker.worker_id)
            if known is None or known[0] is not worker or known[1] != stamp:
                known = (worker, stamp, self._make(worker, glyphs, now))
            kept[worker.worker_id] = known
        self._kept = kept
        return [row for _, _, row in kept.values()]


def job_row(job: JobInfo, glyphs: Glyphs) -> Row:
    """A job as a row."""
    word, role = _job_state(job)
    note = ""
    if job.state is JobState.FAILED:
        note = job.error_code or ""
    elif job.state is JobState.QUEUED:
        note = job.waiting_for or ""
    elif job.tokens_out:
        speed = f"  {job.tokens_per_second:.1f} tok/s" if job.tokens_per_second else ""
        note = f"{glyphs.down} {job.tokens_out}{speed}"
    worker = job.worker_id or (glyphs.queued if job.state is JobState.QUEUED else glyphs.na)
    return Row(
        key=job.job_id,
        command=f"rbee job show {job.job_id}",
        cells={
            "job": (job.job_id, "strong"),
            "kind": (_KINDS.get(job.operation, job.operation), "muted"),
            "model": (model_name(job.model or glyphs.na), "text"),
            "worker": (worker, "text"),
            "state": (word, role),
            "note": (note, "muted"),
        },
    )


def _job_state(job: JobInfo) -> tuple[str, str]:
    match job.state:
        case JobState.QUEUED:
            at = "" if job.queue_position is None else f" #{job.queue_position}"
            return f"queued{at}", "warn"
        case JobState.DISPATCHED:
            return "starting", "ok"
        case JobState.RUNNING:
            return ("streaming" if job.tokens_out else "running"), "ok"
        case JobState.COMPLETED:
            return "done", "muted"
        case JobState.FAILED:
            return "failed", "bad"
        case JobState.CANCELLED:
            return "cancelled", "muted"


def device_strip(views: Sequence[DeviceView], glyphs: Glyphs, width: int) -> list[Line]:
    """One line per device: utilisation, memory, temperature and 11 s of history."""
    name = max([7, *(len(view.title) for view in views)])
    name = min(name, max(7, width - 57))
    bar = max(4, min(14, (width - name - 30) // 2 - 1))
    return [_strip_line(view, glyphs, name, bar, width) for view in views]


def _strip_line(view: DeviceView, glyphs: Glyphs, name: int, bar: int, width: int) -> Line:
    device = view.device
    use = None if device.utilisation is None else device.utilisation / 100
    percent = glyphs.na if use is None else f"{use:.0%}"
    line: Line = (
        (" ", "text"),
        (glyphs.clip(view.title, name).ljust(name + 1), "name"),
        *_meter(use, bar, glyphs),
        (f" {percent:>4}  ", "text"),
        *_meter(view.memory_fraction, bar, glyphs),
        (f" {_memory(view, glyphs):<8}", "text"),
        (f" {_temperature(view, glyphs):<4} ", "muted"),
    )
    return (*line, *_history(view, glyphs, min(11, width - width_of(line) - 1)))


def device_cards(views: Sequence[DeviceView], glyphs: Glyphs, width: int) -> list[Line]:
    """A device in four lines and a blank one: name, utilisation, memory, history."""
    lines: list[Line] = []
    for view in views:
        lines += _card(view, glyphs, width)
    return lines


def _card(view: DeviceView, glyphs: Glyphs, width: int) -> list[Line]:
    device = view.device
    bar = max(4, width - 20)
    use = None if device.utilisation is None else device.utilisation / 100
    percent = glyphs.na if use is None else f"{use:.0%}"
    kind = "ram " if device.kind == "cpu" else "vram"
    label = f"CPU {device.label}" if device.kind == "cpu" else device.label
    heat = _temperature(view, glyphs)
    power = glyphs.na if device.power_w is None else f"{device.power_w:.0f} W"
    figures = f"   {heat}  {power}"
    room = max(0, width - len(view.title) - len(figures) - 4)
    return [
        (
            (f" {view.title}", "name"),
            (f"  {glyphs.clip(label, room)}", "text"),
            (figures, "muted"),
        ),
        ((" util ", "muted"), *_meter(use, bar, glyphs), (f" {percent:>5}", "text")),
        (
            (f" {kind} ", "muted"),
            *_meter(view.memory_fraction, bar, glyphs),
            (f" {_memory(view, glyphs)}", "text"),
        ),
        ((" ", "text"), *_history(view, glyphs, width - 2)),
        (),
    ]


def _history(view: DeviceView, glyphs: Glyphs, width: int) -> list[Span]:
    spark = glyphs.sparkline(view.history, width, 100)
    high = glyphs.spark[len(glyphs.spark) // 2 :]
    runs = groupby(spark, key=lambda glyph: "high" if glyph in high else "low")
    return [("".join(glyphs_of), role) for role, glyphs_of in runs]


def load_role(fraction: float) -> str:
    """Headroom as a colour: below 60 % fine, below 85 % look, else full."""
    return "ok" if fraction < 0.6 else "warn" if fraction < 0.85 else "bad"


def _meter(fraction: float | None, width: int, glyphs: Glyphs) -> tuple[Span, Span]:
    full, rest = glyphs.meter(fraction, width)
    return (full, load_role(fraction or 0.0)), (rest, "track")


def _memory(view: DeviceView, glyphs: Glyphs) -> str:
    device = view.device
    if device.memory_total <= 0:
        return glyphs.na.rjust(4)
    return f"{gib(device.memory_used):>4}/{total_gib(device.memory_total)}G"


def _temperature(view: DeviceView, glyphs: Glyphs) -> str:
    value = view.device.temperature_c
    return glyphs.na if value is None else f"{value:.0f}°C"


def device_line(view: DeviceView, glyphs: Glyphs, width: int) -> Line:
    """A device of a machine whose name stands above it: use and memory in one line."""
    device = view.device
    use = None if device.utilisation is None else device.utilisation / 100
    percent = glyphs.na if use is None else f"{use:.0%}"
    tail = f" {percent:>4}  {_memory(view, glyphs)} {_temperature(view, glyphs)}"
    name = f" {device.name} {printable(device.label)}"
    room = max(10, min(len(name), width - len(tail) - 10))
    bar = max(4, min(24, width - room - len(tail) - 2))
    return (
        (f"{glyphs.clip(name, room)} ", "name"),
        *_meter(use, bar, glyphs),
        (tail, "text"),
    )


def history_line(view: DeviceView, glyphs: Glyphs, width: int) -> Line:
    """The last minute of a device."""
    return ((" ", "text"), *_history(view, glyphs, width - 2))
