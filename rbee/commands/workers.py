"""`rbee worker …`: list them, ask after one, let one finish, stop one."""

from __future__ import annotations

import sys
import time

from rbee.client import QueenClient
from rbee.commands.common import ask, check_id
from rbee.commands.following import Manner, follow
from rbee.commands.following import run as run_job
from rbee.errors import RbeeError
from rbee.narration import Narrator
from rbee.output import duration, print_json, print_table, size
from rbee.protocol.base import builtins, decode
from rbee.protocol.jobs import ErrorData, EventType
from rbee.protocol.operations import WorkerDrain, WorkerStop
from rbee.protocol.workers import WorkerInfo, WorkerState
from rbee.sse import ServerEvent

TAKING = (WorkerState.IDLE, WorkerState.BUSY)


def listing(*, as_json: bool) -> int:
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


def health(worker_id: str, *, as_json: bool) -> int:
    """`rbee worker health ID`: 0 when it can take work or does."""
    check_id(worker_id, of="worker")
    worker = ask(lambda queen: queen.worker(worker_id))
    good = worker.state in TAKING and not worker.draining
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


def stop(worker_id: str, *, as_json: bool) -> int:
    """`rbee worker stop ID`: returns when the process is gone."""
    check_id(worker_id, of="worker")

    async def work(queen: QueenClient) -> None:
        accepted = await queen.submit(WorkerStop(worker_id=worker_id))
        async for event in queen.job_stream(accepted.job_id):
            if event.event == EventType.ERROR:
                error = decode(event.data, ErrorData)
                raise RbeeError.from_body({"error": builtins(error)})

    ask(work)
    if as_json:
        print_json({"worker_id": worker_id, "state": "stopped"})
    else:
        sys.stderr.write(f"rbee: {worker_id} stopped\n")
    return 0


def drain(worker_id: str, *, quiet: bool, as_json: bool) -> int:
    """`rbee worker drain ID`: returns when it has finished its work and is gone.

    Ctrl+C takes the drain back: the worker goes on as before.
    """
    check_id(worker_id, of="worker")
    operation = WorkerDrain(worker_id=worker_id)

    def take(_result: ServerEvent) -> None:
        """What it says, the end says too."""

    async def work(queen: QueenClient, narrator: Narrator) -> None:
        await follow(operation, queen, narrator, take)
        if as_json:
            print_json({"worker_id": worker_id, "state": "stopped"})
        else:
            narrator.say(f"{worker_id} is drained and stopped")

    return run_job(Manner(ephemeral=False, quiet=quiet, as_json=as_json), work)


def _state(worker: WorkerInfo) -> str:
    if worker.state is WorkerState.LOADING and worker.progress is not None:
        return f"loading {worker.progress:.0%}"
    if worker.draining and worker.state in TAKING:
        return "draining"
    return str(worker.state)
