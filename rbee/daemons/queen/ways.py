"""Ways to the workers of another machine: a local socket for each, forwarded to its port there.

Owns the forwards of one connection and holds back what a hive says of a worker until that can be
reached. Prefers the system's ssh, which has a core of its own; through our own connection a token
takes a third more of the queen's CPU (`python -m bench.links`). Never reads what passes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import anyio
import anyio.abc
import msgspec

from rbee.daemons.queen.remote_hive import port_of
from rbee.errors import RbeeError
from rbee.protocol.hives import (
    AnyHiveEvent,
    HiveHeartbeat,
    HiveWorker,
    HiveWorkerExited,
    HiveWorkerReady,
)
from rbee.protocol.machines import Forward
from rbee.protocol.workers import WorkerReady
from rbee.ssh.forwards import Tcp, Unix, forwarded
from rbee.ssh.reconnect import Backoff
from rbee.ssh.system import installed, system_forwarded

if TYPE_CHECKING:
    from rbee.ssh.known import KnownHosts
    from rbee.ssh.session import Session

log = logging.getLogger("rbee.links")
OPENING = 15.0
"""Seconds that the ways to workers which run already get before their hive joins; those that take
longer are told of when they are open."""
MOST_HELD = 1000
MOST = 256
"""Workers of one machine that get a way: it says how many there are, and each costs something."""
MOST_BY_SYSTEM = 32
"""So many of them by a process of the system's ssh; the others by our own connection."""
LONGEST_ID = 80
Post = Callable[[AnyHiveEvent], None]


@dataclass
class _Door:
    """One worker's. `held`: what is told of it once it is open; None: it is."""

    worker_id: str
    remote: Tcp
    local: Unix
    open: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    held: list[AnyHiveEvent] | None = None
    gone: bool = False

    def moved(self, ready: WorkerReady) -> WorkerReady:
        """The same worker at its address here."""
        url = f"http+unix://{quote(self.local.path, safe='')}"
        return msgspec.structs.replace(ready, url=url)


class Ways:
    """See rbee.daemons.queen.links.WorkerWays. `folder` is private and its path short."""

    def __init__(
        self,
        session: Session,
        known: KnownHosts,
        folder: Path,
        tasks: anyio.abc.TaskGroup,
        forward: Forward,
    ) -> None:
        self._session = session
        self._known = known
        self._folder = folder
        self._tasks = tasks
        self._doors: dict[str, _Door] = {}
        self._late: list[_Door] = []
        """Of workers that the hive joined with, before they could be reached."""
        self.system = forward == "system-ssh" or (forward == "auto" and installed() is not None)
        """Whether the system's ssh carries them."""
        self._only_system = forward == "system-ssh"
        self._refused = False

    @property
    def via(self) -> str:
        """For people: what carries the streams."""
        return "ssh -L" if self.system else "ssh"

    async def opened(self, workers: Sequence[HiveWorker]) -> list[HiveWorker]:
        """Those whose way is not open in time are as if they were not ready yet."""
        doors = {
            w.spec.worker_id: door
            for w in workers
            if w.ready is not None
            and (door := self._open(w.spec.worker_id, w.ready.url)) is not None
        }
        with anyio.move_on_after(OPENING):
            for door in doors.values():
                await door.open.wait()
        return [self._joining(worker, doors.get(worker.spec.worker_id)) for worker in workers]

    def _joining(self, worker: HiveWorker, door: _Door | None) -> HiveWorker:
        if worker.ready is None:
            return worker
        if door is None:
            return msgspec.structs.replace(worker, ready=None, beat=None)
        if door.open.is_set():
            return msgspec.structs.replace(worker, ready=door.moved(worker.ready))
        ready = HiveWorkerReady(ready=door.moved(worker.ready), log_path=worker.log_path)
        door.held = [ready]
        if worker.beat is not None:
            door.held.append(HiveHeartbeat(beat=worker.beat))
        self._late.append(door)
        return msgspec.structs.replace(worker, ready=None, beat=None)

    def pass_on(self, said: AnyHiveEvent, post: Post) -> None:
        """See WorkerWays."""
        while self._late:
            self._tasks.start_soon(self._release, self._late.pop(), post)
        match said:
            case HiveWorkerReady(ready=ready) if ready.worker_id not in self._doors:
                door = self._open(ready.worker_id, ready.url)
                if door is not None:
                    door.held = [msgspec.structs.replace(said, ready=door.moved(ready))]
                    self._tasks.start_soon(self._release, door, post)
            case HiveWorkerReady():
                pass  # told of already, or held
            case HiveHeartbeat(beat=beat):
                door = self._doors.get(beat.worker_id)
                if door is None or door.held is None:
                    post(said)
                elif len(door.held) < MOST_HELD:
                    door.held.append(said)
            case HiveWorkerExited(worker_id=worker_id):
                door = self._doors.pop(worker_id, None)
                if door is not None:
                    door.gone = True
                    door.open.set()
                    door.scope.cancel()
                post(said)
            case _:
                post(said)

    async def _release(self, door: _Door, post: Post) -> None:
        await door.open.wait()
        held, door.held = door.held, None
        for said in held or () if not door.gone else ():
            post(said)

    def _open(self, worker_id: str, url: str) -> _Door | None:
        """None: it has too many already, or this is none."""
        known = self._doors.get(worker_id)
        if known is not None:
            return known
        if len(self._doors) >= MOST or len(worker_id) > LONGEST_ID:
            if not self._refused:
                self._refused = True
                log.warning("%s tells of workers that cannot be", self._session.machine)
            return None
        name = hashlib.sha256(f"{self._session.machine}/{worker_id}".encode()).hexdigest()[:16]
        remote = Tcp(port_of(url))  # on that machine's loopback, wherever else it may say
        door = _Door(worker_id, remote, Unix(str(self._folder / f"{name}.sock")))
        system = self.system and len(self._doors) < MOST_BY_SYSTEM
        self._doors[worker_id] = door
        self._tasks.start_soon(self._keep, door, system)
        return door

    async def _keep(self, door: _Door, system: bool) -> None:
        """Open it, and again when it broke, until its worker has gone."""
        pause = Backoff(0.2, 5.0)
        with door.scope:
            while True:
                try:
                    if system:
                        await self._by_system(door)
                    else:
                        async with forwarded(self._session, door.local, door.remote):
                            door.open.set()
                            await anyio.sleep_forever()
                except RbeeError as exc:
                    told = {"worker": door.worker_id}
                    log.warning("way to a worker on %s: %s", self._session.machine, exc, extra=told)
                    if system and not self._only_system and not door.open.is_set():
                        self.system = system = False  # our own connection is there in any case
                        continue
                await anyio.sleep(pause.take())

    async def _by_system(self, door: _Door) -> None:
        async with system_forwarded(
            self._session.machine, self._known, door.local, door.remote, folder=self._folder
        ) as way:
            door.open.set()
            why = await way.wait_lost()
        log.warning("way to %s on %s broke: %s", door.worker_id, self._session.machine, why)
