"""The machines that were added: which there are, which are to be followed, how each is.

Owns the set and the life of each member's task; keeps the registry in step. What a machine's state
means for jobs is decided by the brain, which hears of its hive like of any other.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import msgspec

from rbee.core.events import Event, HiveForgotten, HiveLabelled
from rbee.daemons.queen.links import HiveLink
from rbee.daemons.queen.registry import Registry
from rbee.errors import HiveExists, HiveNotFound, HiveOffline, RbeeError
from rbee.naming import queen_name
from rbee.paths import make_private
from rbee.protocol.hives import HiveInfo
from rbee.protocol.machines import SETTLED, HiveChange, HiveRecord, LinkInfo

if TYPE_CHECKING:
    from rbee.clock import Clock
    from rbee.core.fleet import Fleet
    from rbee.daemons.queen.board import Board
    from rbee.daemons.queen.machine import AddedMachine, World
    from rbee.paths import Paths
    from rbee.ssh.hosts import Hosts
    from rbee.ssh.known import KnownHosts

log = logging.getLogger("rbee.links")
FIRST_LIMIT = 5.0
"""Seconds that work which names no hive waits for machines that were never tried yet."""
REACH_LIMIT = 35.0
"""Seconds for three tries to connect."""
SHORT = 60
"""Bytes of a folder's path with which a socket in it still has a path that systems take."""


class Machines:
    """`begin` before anything else; `links` gets each hive that has joined. Closing is the last."""

    def __init__(
        self,
        *,
        paths: Paths,
        clock: Clock,
        fleet: Fleet,
        board: Board,
        links: dict[str, HiveLink],
        call: Callable[[Event], Awaitable[object]],
        post: Callable[[Event], None],
        joined: Callable[[], Awaitable[None]],
        local_name: Callable[[], str | None],
    ) -> None:
        self.registry = Registry(paths.data / "hives.db")
        self._paths = paths
        self._clock = clock
        self._fleet = fleet
        self._board = board
        self._links = links
        self._call = call
        self._post = post
        self._joined = joined
        self._local_name = local_name
        self._world: World | None = None
        self._followed: dict[str, tuple[AddedMachine, anyio.CancelScope, anyio.Event]] = {}
        self._tasks: anyio.abc.TaskGroup | None = None

    def begin(self, tasks: anyio.abc.TaskGroup) -> None:
        """Follow every machine that is to be."""
        self._tasks = tasks
        for record in self.registry.all():
            if record.wanted:
                self.follow(record)

    @property
    def world(self) -> World:
        """What the machines share; made when the first is needed, for it takes imports."""
        if self._world is None:
            from rbee.daemons.queen.machine import World
            from rbee.ssh.hosts import Hosts

            self._world = World(
                hosts=Hosts(),
                known=self.known,
                folder=socket_folder(self._paths),
                clock=self._clock,
                links=self._links,
                call=self._call,
                post=self._post,
                joined=self._joined,
                changed=self._changed,
                save=self._learned,
                queen=queen_name(str(self._paths.data)),
            )
        return self._world

    @property
    def hosts(self) -> Hosts:
        """The user's ssh config."""
        return self.world.hosts

    @property
    def known(self) -> KnownHosts:
        """The host keys that are known: the user's files, and ours."""
        from rbee.ssh.known import KnownHosts

        return KnownHosts(self._paths.data / "known_hosts")

    # ---- which there are -----------------------------------------------------------------------

    def record(self, name: str) -> HiveRecord:
        """A machine that was added. Raises HiveNotFound."""
        found = self.registry.get(name)
        if found is None:
            raise HiveNotFound.of(name, self.names())
        return found

    def names(self) -> list[str]:
        """All hives: those of the colony, and machines whose hive never came."""
        return list(dict.fromkeys([*self._fleet.hives, *(r.name for r in self.registry.all())]))

    def check_free(self, name: str) -> None:
        """Raises HiveExists for a name that another hive has."""
        if name == self._local_name():
            raise HiveExists(
                f"{name} is the name of the hive that this queen runs herself",
                action="Choose another name.",
            )
        record = self.registry.get(name)
        if record is not None or name in self._links:
            where = f": {record.target}" if record else ""
            raise HiveExists(
                f"a hive named {name} is there already{where}",
                action=f"Choose another name, or first: rbee hive remove {name}",
            )

    def get(self, name: str) -> AddedMachine | None:
        """One that is followed; None: it is stopped or was never added."""
        entry = self._followed.get(name)
        return entry[0] if entry is not None else None

    async def arrived(self, hive: str | None) -> None:
        """Return when the hive that is meant has come; with None when none is on its first way.

        Raises why one that was added is not to be had. Right after her start the queen knows of no
        hive but her own, and would refuse what others can do.
        """
        if hive is None:
            new = [machine for machine, _, _ in self._followed.values() if not machine.settled]
            if not new:  # as of nearly every request
                return
            with anyio.move_on_after(FIRST_LIMIT):
                for machine in new:
                    await machine.until("online", *SETTLED, limit=FIRST_LIMIT)
            return
        record = self.registry.get(hive)
        if record is None or hive in self._links:
            return
        machine = self.get(hive)
        if machine is None:
            raise HiveOffline(f"hive {hive} was stopped", action=f"rbee hive start {hive}")
        await machine.reach(REACH_LIMIT)

    # ---- following -----------------------------------------------------------------------------

    def follow(self, record: HiveRecord) -> AddedMachine:
        """Connect to it and have its hive up, from now on; harmless when that is so."""
        from rbee.daemons.queen.machine import AddedMachine

        entry = self._followed.get(record.name)
        if entry is not None:
            return entry[0]
        assert self._tasks is not None
        machine = AddedMachine(record, self.world)
        scope, over = anyio.CancelScope(), anyio.Event()
        self._followed[record.name] = machine, scope, over
        self._tasks.start_soon(self._live, machine, scope, over)
        return machine

    async def _live(
        self, machine: AddedMachine, scope: anyio.CancelScope, over: anyio.Event
    ) -> None:
        try:
            with scope:
                await machine.run()
        finally:
            self._followed.pop(machine.record.name, None)
            over.set()
            self._changed(machine.record.name)

    async def leave(self, name: str) -> None:
        """Follow it no more; returns when its link is closed. Its hive is not told."""
        entry = self._followed.get(name)
        if entry is not None:
            entry[1].cancel()
            with anyio.CancelScope(shield=True), anyio.move_on_after(10.0):
                await entry[2].wait()

    async def remove(self, name: str) -> None:
        """Forget the machine."""
        await self.leave(name)
        self.registry.remove(name)
        await self._call(HiveForgotten(name))

    def change(self, record: HiveRecord) -> None:
        """Remember something else of it."""
        self.registry.save(record)
        machine = self.get(record.name)
        if machine is not None:
            machine.record = record
        self._changed(record.name)

    def _learned(self, record: HiveRecord) -> None:
        """What a link found out. A full disk costs no link, and what was removed stays so."""
        if self.registry.get(record.name) is None:
            return
        try:
            self.registry.save(record)
        except RbeeError as exc:
            log.warning("what is known of %s was not kept: %s", record.name, exc.message)

    async def edit(self, name: str, change: HiveChange) -> None:
        """PATCH: what is given is remembered. Labels are heeded at once, the rest when the machine
        is connected next."""
        record = self.record(name)
        given = {
            field: value
            for field, value in msgspec.structs.asdict(change).items()
            if value is not None and field != "labels"
        }
        new = {key: (None if value == "" else value) for key, value in given.items()}
        if change.labels is not None:
            both = {**record.labels, **change.labels}
            new["labels"] = {key: value for key, value in both.items() if value}
        changed = msgspec.structs.replace(record, **new)
        self.change(changed)
        if change.labels is not None:
            await self._call(HiveLabelled(changed.name, changed.labels))

    def stay_alone(self) -> set[str]:
        """Hives that were told to stay without a queen for a while."""
        return {name for name, (m, _, _) in self._followed.items() if m.alone is not None}

    def start_no_more(self) -> None:
        """The queen goes: a hive that ends now is not started again."""
        if self._world is not None:
            self._world.closing = True

    def close(self) -> None:
        """The queen has ended; her folder for sockets goes with her, if nothing is left in it."""
        self.registry.close()
        if self._world is not None:
            with suppress(OSError):
                self._world.folder.rmdir()

    # ---- how they are --------------------------------------------------------------------------

    def infos(self) -> list[HiveInfo]:
        """Every hive: those of the colony, and machines whose hive never came."""
        fleet = self._fleet
        found = [self.dress(fleet.hive_info(hive)) for hive in fleet.hives.values()]
        found += [
            self.dress(_unseen(record))
            for record in self.registry.all()
            if record.name not in fleet.hives
        ]
        return found

    def info(self, name: str) -> HiveInfo:
        """One of them. Raises HiveNotFound."""
        hive = self._fleet.hives.get(name)
        if hive is not None:
            return self.dress(self._fleet.hive_info(hive))
        return self.dress(_unseen(self.record(name)))

    def dress(self, info: HiveInfo) -> HiveInfo:
        """What the colony knows of a hive, with what is known of its machine and link."""
        record = self.registry.get(info.name)
        if record is None:
            return info
        machine = self.get(info.name)
        if machine is None:
            state, link = ("connecting" if record.wanted else "stopped"), LinkInfo(up=False)
        else:
            state, link = machine.state, machine.link_info()
        return msgspec.structs.replace(
            info,
            state=state,
            link=link,
            record=record,
            labels={**info.labels, **record.labels},
            version=record.version or info.version,
            last_seen_at=info.last_seen_at or record.connected_at,
        )

    def _changed(self, name: str) -> None:
        if self.registry.get(name) is not None:
            self._board.publish("hive", self.info(name))


def _unseen(record: HiveRecord) -> HiveInfo:
    return HiveInfo(
        name=record.name,
        kind="ssh",
        url=None,
        online=False,
        version=record.version,
        hostname=None,
        devices=[],
        absent_devices=[],
        backends=[],
        absent_backends=[],
        last_seen_at=record.connected_at,
    )


def socket_folder(paths: Paths) -> Path:
    """Private, and near enough to the root that the system takes the path of a socket in it."""
    folder = paths.runtime / "ssh"
    if len(os.fsencode(folder)) > SHORT:
        folder = _near(folder)
    make_private(folder)
    for old in folder.iterdir():
        if stat.S_ISSOCK(old.lstat().st_mode) or old.suffix == ".conf":
            old.unlink(missing_ok=True)  # of a queen that was killed: there is one at a time
    return folder


def _near(folder: Path) -> Path:
    """One in the folder for temporary files, where others may have laid a trap under its name."""
    known = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    near = Path(tempfile.gettempdir()) / f"rbee-{os.getuid()}-{known}"
    with contextlib.suppress(FileExistsError):
        near.mkdir(mode=0o700)
    about = near.lstat()
    mine = stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid()
    if mine and not stat.S_IMODE(about.st_mode) & 0o077:
        return near
    log.warning("%s is not this user's alone, and is not used", near)
    return Path(tempfile.mkdtemp(prefix=f"rbee-{os.getuid()}-"))
