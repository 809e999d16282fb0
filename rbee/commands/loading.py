"""`rbee model load|unload`: a model's place in memory."""

from __future__ import annotations

import sys

from rbee.client import QueenClient
from rbee.commands.fetching import result_of
from rbee.commands.following import Manner
from rbee.commands.following import run as run_job
from rbee.commands.models import check_model
from rbee.narration import Narrator, printable
from rbee.output import print_json
from rbee.protocol.base import convert
from rbee.protocol.operations import ModelPreload, ModelUnload, Operation


def load(
    model: str, *, hive: str | None, device: str | None, backend: str | None, manner: Manner
) -> int:
    """`rbee model load MODEL`: returns when a worker can answer."""
    check_model(model)
    fields = {"operation": "model_preload", "model": model, "hive": hive, "device": device}
    fields["backend"] = backend
    return _run(convert(fields, ModelPreload), manner, unloads=False)


def unload(model: str, *, hive: str | None, device: str | None, manner: Manner) -> int:
    """`rbee model unload MODEL`: returns when its workers have ended, each after its work."""
    check_model(model)
    fields = {"operation": "model_unload", "model": model, "hive": hive, "device": device}
    return _run(convert(fields, ModelUnload), manner, unloads=True)


def _run(operation: Operation, manner: Manner, *, unloads: bool) -> int:
    async def work(queen: QueenClient, narrator: Narrator) -> None:
        result = await result_of(operation, queen, narrator)
        narrator.clear()
        if manner.as_json:
            print_json(result)
            return
        if unloads:
            workers = result.get("workers") or []
            line = f"ended: {', '.join(workers)}" if workers else "no worker had it loaded"
        else:
            line = (
                f"{result.get('model')} is loaded: {result.get('worker_id')} on"
                f" {result.get('hive')} {result.get('device')}"
            )
        sys.stdout.write(printable(line) + "\n")

    return run_job(manner, work)
