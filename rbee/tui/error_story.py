"""An error told in full: what happened, what to do, and what came before it.

Pure, from the error and what the store still knows of the things it names. Whatever a command or a
machine said is shown as text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rbee.errors import RbeeError
from rbee.protocol.jobs import JobInfo
from rbee.tui import cells
from rbee.tui.glyphs import wall_time
from rbee.tui.store import ColonyStore

MOST_LINES = 12
LONGEST = 2000
"""Characters of one value."""
_OBJECTS = ("hive", "worker_id", "worker", "job_id", "job", "model", "host")
_TOLD = frozenset({"suggested_action", "command", "tail"})


@dataclass(frozen=True)
class Mishap:
    """An error as it was shown: when (UTC seconds), and the job it ended, if there was one."""

    error: RbeeError
    at: float
    job: JobInfo | None = None


def story(mishap: Mishap, store: ColonyStore) -> list[tuple[str, str]]:
    """(name, text) of everything that is known; a text may have several lines."""
    error, job = mishap.error, mishap.job
    facts = [
        ("what", _flat(error.message)),
        ("do", _flat(error.action)),
        ("error", f"{error.code}  at {wall_time(mishap.at)}"),
    ]
    if job is not None:
        facts.append(("job", _job(job)))
    for name, value in error.details.items():
        if name not in _TOLD and value not in (None, "", [], {}):
            facts.append((_flat(name)[:9], _flat(value)))
    if command := error.details.get("command"):
        facts.append(("command", f"$ {_flat(command)}"))
    tail = error.details.get("tail")
    if isinstance(tail, list) and tail:
        facts.append(("it said", "\n".join(_flat(line) for line in tail[-MOST_LINES:])))
    if before := _before(mishap, store):
        facts.append(("before", "\n".join(before)))
    return facts


def report(mishap: Mishap, store: ColonyStore, version: str) -> str:
    """The same as a text to send to somebody."""
    head = f"rbee {version}, queen {store.version or 'not reached'}"
    lines = [head]
    for name, value in story(mishap, store):
        rows = value.split("\n")
        lines += [f"{name:<9} {rows[0]}", *(f"{'':<9} {row}" for row in rows[1:])]
    return "\n".join(lines) + "\n"


def _job(job: JobInfo) -> str:
    parts = [
        job.job_id,
        job.operation,
        job.model or "",
        f"on {job.worker_id}" if job.worker_id else "",
        f"at {job.hive}" if job.hive else "",
        f"given to a worker {job.attempts} times" if job.attempts > 1 else "",
    ]
    return _flat(" ".join(part for part in parts if part))


def _before(mishap: Mishap, store: ColonyStore) -> list[str]:
    """What was narrated of the things it names."""
    details, job = mishap.error.details, mishap.job
    named = {str(details[key]) for key in _OBJECTS if isinstance(details.get(key), str)}
    if job is not None:
        named |= {name for name in (job.job_id, job.worker_id, job.hive) if name}
    known = (*store.hives, *store.workers)
    named |= {name for name in known if _mentions(mishap.error.message, name)}
    lines = [
        f"{wall_time(line.at)} {_flat(line.source)}  {_flat(line.message)}"
        for line in store.narration
        if line.at <= mishap.at
        and any(line.source == name or _mentions(line.message, name) for name in named)
    ]
    return lines[-MOST_LINES:]


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


def _flat(value: object) -> str:
    return cells.safe(str(value)[:LONGEST])
