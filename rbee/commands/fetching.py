"""`rbee model download|downloads|copy`: models on their way to a hive.

Each model is a job of the queen; Ctrl+C cancels all of them and what has come is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import anyio

from rbee.client import QueenClient
from rbee.commands.bars import Bars
from rbee.commands.common import ask
from rbee.commands.following import Manner, follow
from rbee.commands.following import run as run_job
from rbee.commands.models import check_model
from rbee.commands.places import check_hive
from rbee.commands.tables import room, table
from rbee.errors import BadGateway, InvalidRequest, RbeeError
from rbee.narration import Narrator, printable
from rbee.output import duration, print_error, print_json, size
from rbee.protocol.base import decode
from rbee.protocol.models import DownloadInfo
from rbee.protocol.operations import ModelCopy, ModelDownload, Operation
from rbee.sse import ServerEvent

MOST = 16
"""Models fetched by one command."""


async def result_of(operation: Operation, queen: QueenClient, narrator: Narrator) -> dict[str, Any]:
    """Carry an operation out and return its result. Raises the error that its job ended with."""
    results: list[ServerEvent] = []
    course = await follow(operation, queen, narrator, results.append)
    if not results:
        raise BadGateway(f"{course.job_id} ended without a result")
    return decode(results[-1].data, dict[str, Any])


def download(models: Sequence[str], *, hive: str | None, manner: Manner) -> int:
    """`rbee model download MODEL…`: side by side; the exit code is that of the first failure."""
    check_hive(hive)
    wanted = list(dict.fromkeys(models))
    for model in wanted:
        check_model(model)
    if len(wanted) > MOST:
        raise InvalidRequest(
            f"{len(wanted)} models at once, {MOST} are the most", action="Name fewer."
        )
    done: list[dict[str, Any]] = []
    failed: list[tuple[str, RbeeError]] = []

    async def fetch(model: str, queen: QueenClient, narrator: Bars) -> None:
        operation = ModelDownload(model=model, hive=hive)
        try:
            result = await result_of(operation, queen, narrator)
        except RbeeError as exc:
            failed.append((model, exc))
            if len(wanted) > 1:
                narrator.say(f"{model} was not fetched: {exc.code}")
            narrator.clear()
            return
        narrator.clear()
        done.append(result)
        if not manner.as_json:
            _tell_fetched(result, narrator)

    async def work(queen: QueenClient, narrator: Bars) -> None:
        async with anyio.create_task_group() as tasks:
            for model in wanted:
                tasks.start_soon(fetch, model, queen, narrator.beside(model))
        narrator.clear()
        if failed and len(wanted) == 1:
            raise failed[0][1]
        if manner.as_json:
            errors = [{"model": model, **error.body()} for model, error in failed]
            print_json({"downloads": done, "failed": errors})
        else:
            for _, error in failed:
                print_error(error)

    code = run_job(manner, work)
    return code or (failed[0][1].exit_code if failed else 0)


def downloads(*, as_json: bool) -> int:
    """`rbee model downloads`: what is on its way now."""
    found = ask(lambda queen: queen.transfers())
    if as_json:
        print_json({"downloads": found})
    elif not found:
        sys.stderr.write("Nothing is on its way. `rbee model download NAME` fetches a model.\n")
    else:
        sys.stdout.write("\n".join(on_their_way(found, width=room())) + "\n")
    return 0


def on_their_way(found: Sequence[DownloadInfo], *, width: int | None) -> list[str]:
    """The table of transfers."""
    rows = [
        [
            one.model_id,
            one.hive or "·",
            str(one.state),
            f"{size(one.bytes_done)} of {size(one.bytes_total)}",
            f"{one.bytes_done / one.bytes_total:.0%}" if one.bytes_total else "·",
            f"{size(one.rate)}/s" if one.rate else "·",
            duration(one.eta_seconds) if one.eta_seconds is not None else "·",
            one.message,
        ]
        for one in found
    ]
    return table(["model", "to", "state", "done", "", "rate", "left", "note"], rows, width=width)


def copy(model: str, *, to: str, source: str | None, manner: Manner) -> int:
    """`rbee model copy MODEL --to HIVE`: from machine to machine; the hub is not asked."""
    check_model(model)
    check_hive(to, flag="--to")
    check_hive(source, flag="--from")
    if to == source:
        raise InvalidRequest(f"from {to} to {to}: that is one hive", action="Name another one.")
    operation = ModelCopy(model=model, hive=source, to_hive=to)

    async def work(queen: QueenClient, narrator: Bars) -> None:
        result = await result_of(operation, queen, narrator)
        narrator.clear()
        if manner.as_json:
            print_json(result)
        else:
            how = "already" if result.get("already") else "too"
            _write(f"{result['model']} is on {result['to_hive']} {how}: {size(result['bytes'])}")

    return run_job(manner, work)


def _tell_fetched(result: dict[str, Any], narrator: Bars) -> None:
    narrator.make_room()
    model, hive = result["model"], result.get("to_hive") or result["hive"]
    already = " already" if result.get("already") else ""
    _write(f"{model} is on {hive}{already}: {size(result['bytes'])}")
    narrator.say(f'use it: rbee infer --model {model} "…"')


def _write(line: str) -> None:
    sys.stdout.write(printable(line) + "\n")
    sys.stdout.flush()
