"""Logs of the queen, hives and workers, wherever they run, as streams of `{"line": …}`.

Owns where each log is read: here, over a hive's link, or by a command on its machine where the hive
is down. Never keeps a line.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

from rbee.daemons.hive import logfile
from rbee.daemons.queen.links import HiveLink, HttpLink, LocalLink
from rbee.errors import BadGateway, HiveOffline, NotFound, RbeeError
from rbee.protocol.base import encode
from rbee.sse import DONE, encode_event

if TYPE_CHECKING:
    from rbee.core.fleet import Fleet
    from rbee.daemons.queen.machine import AddedMachine
    from rbee.daemons.queen.machines import Machines
    from rbee.paths import Paths

LONGEST = 1 << 16
"""Bytes of a line of a command's output that are waited for."""
LONGEST_EVENT = 1 << 20
Pieces = AsyncGenerator[bytes]


class Logs:
    """Every stream begins with the last lines; with `follow` it lasts until its reader leaves."""

    def __init__(
        self, *, paths: Paths, fleet: Fleet, machines: Machines, links: Mapping[str, HiveLink]
    ) -> None:
        self._paths = paths
        self._fleet = fleet
        self._machines = machines
        self._links = links

    def of_queen(self, *, lines: int, follow: bool) -> Pieces:
        """What she writes, and the hive that is part of her. Raises NotFound."""
        path = self._paths.queen_log
        if not path.exists():
            raise NotFound(
                "the queen keeps no log: she writes to her terminal",
                action="Start her with `rbee queen start` to have her log kept.",
            )
        return logfile.events(path, lines=lines, ended=lambda: not follow)

    async def of_hive(self, name: str, *, lines: int, follow: bool) -> Pieces:
        """What a hive has written; the queen's own writes into her log. Raises HiveNotFound,
        HiveOffline, NotFound."""
        link = self._links.get(name)
        if isinstance(link, LocalLink):
            return self.of_queen(lines=lines, follow=follow)
        if isinstance(link, HttpLink):
            if follow:
                return whole(link.stream(f"/v1/logs?lines={lines}&follow=1"))
            return _told(await link.log_lines(lines))
        self._machines.info(name)
        machine = self._machines.get(name)
        if machine is None:
            raise HiveOffline(f"hive {name} was stopped", action=f"rbee hive start {name}")
        if machine.session is None:
            raise machine.trouble
        return whole(_by_command(machine, lines=lines, follow=follow))

    async def of_worker(self, worker_id: str, *, lines: int) -> Pieces:
        """What a worker writes from now on, after its last lines. Raises NotFound."""
        worker = self._fleet.workers.get(worker_id)
        link = self._links.get(worker.hive) if worker is not None else None
        if worker is None or link is None:
            raise NotFound(f"no worker {worker_id[:80]}", action="rbee worker list shows them.")
        if isinstance(link, LocalLink):
            return link.log_events(worker_id, lines)
        assert isinstance(link, HttpLink)
        return whole(link.stream(f"/v1/workers/{worker_id}/logs?lines={lines}&follow=1"))


async def whole(pieces: Pieces) -> Pieces:
    """Whole events; where they break off, at last an `error` that says why."""
    rest = b""
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                events, end, rest = (rest + piece).rpartition(b"\n\n")
                if end:
                    yield events + end
                if len(rest) > LONGEST_EVENT:
                    raise BadGateway("a log has a line without an end")
    except RbeeError as exc:
        yield encode_event(encode(exc.body()["error"]), event="error")


async def _told(lines: list[str]) -> Pieces:
    for line in lines:
        yield encode_event(encode({"line": line}))
    yield DONE


async def _by_command(machine: AddedMachine, *, lines: int, follow: bool) -> Pieces:
    """Its hive is down, its machine is there."""
    session = machine.session
    assert session is not None
    flags = ["--log", "--name", machine.record.name, "--lines", str(lines)]
    words = machine.words(*flags, *(["--follow"] if follow else []))
    async with session.attached(words, grace=0.0) as process:
        while line := await process.read_line(LONGEST):
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            yield encode_event(encode({"line": text}))
    yield DONE
