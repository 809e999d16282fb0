"""`rbee logs` and `rbee hive logs`: what the queen, a hive or a worker has written.

Owns nothing of a log: it is read where it lies and printed line by line, with `follow` for ever.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable

from rbee.client import QueenClient
from rbee.commands import queen as queens
from rbee.commands.common import ask, check_id
from rbee.commands.places import check_hive
from rbee.errors import InvalidRequest
from rbee.narration import printable


def run(*, hive: str | None, worker: str | None, lines: int, follow: bool) -> int:
    """`rbee logs [--hive H | --worker W]`: without either the queen's."""
    if hive is not None and worker is not None:
        raise InvalidRequest("give --hive or --worker", action=f"rbee logs --worker {worker[:64]}")
    if hive is not None:
        return of_hive(hive, lines=lines, follow=follow, flag="--hive")
    if worker is not None:
        check_id(worker, of="worker")
        return _print(lambda queen: queen.worker_logs(worker, lines=lines, follow=follow))
    return queens.logs(lines=lines, follow=follow)


def of_hive(name: str, *, lines: int, follow: bool, flag: str = "NAME") -> int:
    """`rbee hive logs NAME`"""
    check_hive(name, flag=flag)
    return _print(lambda queen: queen.hive_logs(name, lines=lines, follow=follow))


def _print(read: Callable[[QueenClient], AsyncIterator[str]]) -> int:
    async def work(queen: QueenClient) -> None:
        async for line in read(queen):
            sys.stdout.write(printable(line) + "\n")
            sys.stdout.flush()

    ask(work)
    return 0
