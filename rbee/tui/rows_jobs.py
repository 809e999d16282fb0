"""Jobs as rows: which of them are shown, and what the Jobs screen writes of each.

Pure functions from the store's values to rows; layout and keys belong to the screen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from enum import StrEnum

from rbee.protocol.jobs import JobInfo, JobState
from rbee.tui.glyphs import Glyphs, duration, rate
from rbee.tui.rows import job_row, model_name
from rbee.tui.store import ACTIVE_JOBS, ColonyStore
from rbee.tui.widgets.lines import Line, Span
from rbee.tui.widgets.table import Column, Row

COLUMNS = (
    Column("job", "job", 11, grow=True, least=8),
    Column("kind", "kind", 7),
    Column("model", "model", 16, grow=True, least=8),
    Column("worker", "worker", 7, grow=True),
    Column("state", "state", 12),
    Column("wait", "wait", 7),
    Column("ttft", "ttft", 7),
    Column("rate", "tok/s", 7),
    Column("tokens", "tokens", 8, extra=True),
    Column("client", "client", 7, extra=True),
)
REPLACEABLE = frozenset({JobState.FAILED, JobState.CANCELLED})
"""What can be asked again."""


class Kind(StrEnum):
    """Which jobs are shown. `dead`: given up after every try."""

    ALL = "all"
    RUNNING = "running"
    QUEUED = "queued"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"

    def shows(self, job: JobInfo) -> bool:
        """Whether a job is one of these."""
        match self:
            case Kind.ALL:
                return True
            case Kind.RUNNING:
                return job.state in (JobState.RUNNING, JobState.DISPATCHED)
            case Kind.DONE:
                return job.state is JobState.COMPLETED
            case Kind.DEAD:
                return job.dead
            case _:
                return job.state.value == self.value


def merged(older: Mapping[str, JobInfo], store: ColonyStore) -> list[JobInfo]:
    """Those that events tell of, then what was read of earlier ones; each once."""
    live = store.job_list()
    there = {job.job_id for job in live}
    return live + [job for job in older.values() if job.job_id not in there]


def rows(jobs: Iterable[JobInfo], kind: Kind, glyphs: Glyphs, now: float) -> list[Row]:
    """Those of a kind as rows."""
    return [_row(job, glyphs, now) for job in jobs if kind.shows(job)]


def _row(job: JobInfo, glyphs: Glyphs, now: float) -> Row:
    row = job_row(job, glyphs)
    na: Span = (glyphs.na, "muted")
    word, role = row.cells["state"]
    if job.dead:
        word, role = "dead letter", "bad"
    elif job.resumes and job.state is JobState.RUNNING:
        word = "resumed"
    elif job.waiting_for and job.state is JobState.QUEUED and job.queue_position is None:
        word = "waiting"
    ttft = _seconds(job.ttft_ms / 1000, 2) if job.ttft_ms is not None else ""
    cells = {
        "job": row.cells["job"],
        "kind": (job.operation.rpartition("_")[2], "muted"),
        "model": (model_name(job.model) if job.model else glyphs.na, "text"),
        "worker": (job.worker_id, "text") if job.worker_id else (job.hive or glyphs.na, "muted"),
        "state": (word, role),
        "wait": (_wait(job, now) or glyphs.na, "text" if job.state in ACTIVE_JOBS else "muted"),
        "ttft": (ttft, "text") if ttft else na,
        "rate": (rate(job.tokens_per_second or None, glyphs.na), "text"),
        "tokens": (str(job.tokens_out), "text") if job.tokens_out else na,
        "client": (job.client or glyphs.na, "muted"),
    }
    return replace(row, cells=cells, mark=_mark(job, glyphs))


def _mark(job: JobInfo, glyphs: Glyphs) -> Span:
    match job.state:
        case JobState.QUEUED:
            return glyphs.queued, "warn"
        case JobState.DISPATCHED | JobState.RUNNING:
            return glyphs.running, "ok"
        case JobState.COMPLETED:
            return glyphs.done, "ok"
        case JobState.FAILED:
            return glyphs.failed, "bad"
        case JobState.CANCELLED:
            return glyphs.cancelled, "muted"


def _wait(job: JobInfo, now: float) -> str:
    """From the submission until it was given to a worker, or until now; empty: not known."""
    until = job.started_at
    if until is None and job.state not in (JobState.RUNNING, JobState.COMPLETED):
        until = job.finished_at or now
    return "" if until is None else _seconds(max(0.0, until - job.created_at), 1)


def _seconds(value: float, places: int) -> str:
    return f"{value:.{places}f}s" if value < 60 else duration(value)


def throughput_lines(store: ColonyStore, glyphs: Glyphs, width: int) -> list[Line]:
    """Tokens per second and how many wait, a sample a second."""
    room = max(8, width - 18)
    queued = store.counts().jobs_queued
    speed = glyphs.sparkline(store.throughput, room, max([1.0, *store.throughput]))
    depth = glyphs.sparkline(store.queue_depth, room, max([4.0, *store.queue_depth]))
    words = (f"{store.tokens_per_second():.0f} tok/s", f"{queued} queued")
    return [
        ((f" {speed:<{min(room, 60)}}  ", "high"), (words[0], "text")),
        ((f" {depth:<{min(room, 60)}}  ", "low"), (words[1], "text")),
    ]
