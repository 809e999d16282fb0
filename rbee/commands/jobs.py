"""`rbee job list|queue|show|cancel`: jobs as they are, and who waits."""

from __future__ import annotations

import sys
import time

from rbee.client import QueenClient
from rbee.commands.common import ask, check_id
from rbee.errors import ValidationFailed
from rbee.narration import printable
from rbee.output import duration, milliseconds, moment, print_json, print_table
from rbee.protocol.base import builtins, decode
from rbee.protocol.jobs import EventType, JobInfo, JobState, TokenData

TIMES = ("created_at", "started_at", "finished_at")


def listing(state: str | None, *, dead: bool, limit: int, as_json: bool) -> int:
    """`rbee job list`"""
    if state is not None and state not in set(JobState):
        raise ValidationFailed(
            f"--state: {state[:40]!r} is not one of {', '.join(JobState)}",
            field="state",
            constraint="a job state",
        )
    found = ask(lambda queen: queen.jobs(state=state, dead=dead, limit=limit))
    if as_json:
        print_json({"jobs": found})
        return 0
    rows = [
        [
            j.job_id,
            j.operation,
            j.model or "·",
            j.worker_id or (f"@{j.hive}" if j.hive and not j.model else "·"),
            f"{j.state} #{j.queue_position}" if j.queue_position else str(j.state),
            str(j.tokens_out) if j.tokens_out else "·",
            f"{j.tokens_per_second:.1f}" if j.tokens_per_second else "·",
            _why(j),
        ]
        for j in found
    ]
    columns = ["job", "operation", "model", "worker", "state", "tokens", "tok/s", "why"]
    print_table(columns, rows, empty=_nothing(state, dead=dead))
    return 0


def queue(*, as_json: bool) -> int:
    """`rbee job queue`"""
    found = ask(lambda queen: queen.queue())
    if as_json:
        print_json(found)
        return 0
    rows = [
        [
            str(j.queue_position or "·"),
            j.job_id,
            j.client or "·",
            j.priority,
            duration(max(0.0, time.time() - j.created_at)),
            milliseconds(j.eta_ms) if j.eta_ms is not None else "·",
            j.model or "·",
            j.waiting_for or "·",
        ]
        for j in found.jobs
    ]
    columns = ["#", "job", "client", "priority", "waits", "eta", "model", "why"]
    print_table(columns, rows, empty="Nobody waits. `rbee job list` shows what runs and ran.")
    more = sum(found.depth.values()) - len(rows)
    if more > 0:
        sys.stderr.write(f"… and {more} more\n")
    return 0


def show(job_id: str, *, as_json: bool) -> int:
    """`rbee job show ID`: the job and, when it has ended, its text."""
    check_id(job_id, of="job")

    async def read(queen: QueenClient) -> tuple[JobInfo, str]:
        info = await queen.job(job_id)
        text: list[str] = []
        if info.finished_at is not None:
            text += [
                decode(event.data, TokenData).t
                async for event in queen.job_stream(job_id)
                if event.event == EventType.TOKEN
            ]
        return info, "".join(text)

    info, text = ask(read)
    fields: dict[str, object] = builtins(info)
    if as_json:
        print_json(fields | {"text": text})
        return 0
    for key, value in fields.items():
        if value not in (None, "", False, 0) or key == "tokens_out":
            sys.stdout.write(f"{key:<20}{_shown(key, value)}\n")
    if text:
        sys.stdout.write(f"\n{text}\n")
    if info.dead:
        sys.stderr.write(f"given up after every try; rbee job retry {job_id} asks again\n")
    return 0


def cancel(job_id: str, *, as_json: bool) -> int:
    """`rbee job cancel ID`"""
    check_id(job_id, of="job")
    ask(lambda queen: queen.cancel(job_id))
    if as_json:
        print_json({"job_id": job_id, "cancelled": True})
    else:
        sys.stderr.write(f"rbee: {job_id} cancelled\n")
    return 0


def _shown(key: str, value: object) -> str:
    if isinstance(value, float):
        return moment(value) if key in TIMES else f"{value:.1f}"
    return printable(str(value))


def _why(job: JobInfo) -> str:
    why = job.error_code or job.waiting_for or job.finish_reason or "·"
    if job.dead:
        return f"{why}, given up after {job.attempts} tries"
    times = "once" if job.resumes == 1 else f"{job.resumes} times"
    return f"{why}, went on elsewhere {times}" if job.resumes else why


def _nothing(state: str | None, *, dead: bool) -> str:
    if dead:
        return "No job was given up. `rbee job list` shows them all."
    if state is not None:
        return f"No job is {state}. `rbee job list` shows them all."
    return "No jobs yet. `rbee infer --model NAME …` makes one."
