"""One machine that was added: its link, the hive over it, and how both are.

Owns the life of one link: connected, the hive there found or started, followed, its lease kept, and
all of that again after a loss. What is to be done with the machine otherwise (install, stop) is
`machine_tasks`'s; meanwhile the hive is left alone (`held`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import msgspec

from rbee import __version__
from rbee.core.events import Event, HiveJoined
from rbee.daemons.queen.links import HiveLink, HttpLink, Way
from rbee.daemons.queen.remote_hive import ABSENT, port_of, read, said, words
from rbee.daemons.queen.ways import Ways
from rbee.errors import (
    ConnectionFailed,
    HiveOffline,
    InternalError,
    NotFound,
    RbeeError,
    VersionMismatch,
)
from rbee.protocol import PROTOCOL
from rbee.protocol.hives import HiveUp
from rbee.protocol.machines import HOPELESS, SETTLED, HiveRecord, LinkInfo
from rbee.ssh.forwards import Tcp, Unix, forwarded
from rbee.ssh.groups import task_group
from rbee.ssh.reconnect import Backoff, Link, LinkState

if TYPE_CHECKING:
    from rbee.clock import Clock
    from rbee.ssh.hosts import Hosts, Machine
    from rbee.ssh.known import KnownHosts
    from rbee.ssh.session import Done, Session

log = logging.getLogger("rbee.links")
LEASE_EVERY = 5.0
ENSURE_LIMIT = 60.0
"""Seconds for the command that finds or starts a hive; it gives up by itself after 30."""
ALIVE_LIMIT = 3.0
"""Seconds that a machine whose hive has fallen silent gets to answer; then the link is lost."""


@dataclass
class World:
    """What all machines of a queen share."""

    hosts: Hosts
    known: KnownHosts
    folder: Path
    """Private, with a short path, for sockets."""
    clock: Clock
    links: dict[str, HiveLink]
    call: Callable[[Event], Awaitable[object]]
    post: Callable[[Event], None]
    joined: Callable[[], Awaitable[None]]
    """The brain knows the hive."""
    changed: Callable[[str], None]
    """A machine's state or link is another."""
    save: Callable[[HiveRecord], None]
    queen: str = ""
    """`naming.queen_name`."""
    closing: bool = False
    """The queen goes: no hive is started any more."""


@dataclass
class AddedMachine:
    """`run` until cancelled; `state` is HiveInfo's."""

    record: HiveRecord
    world: World
    state: str = "connecting"
    via: str = "ssh"
    alone: float | None = None
    settled: bool = False
    """Whether it is known how it is: it was online, or could not be."""
    _trouble: RbeeError | None = None
    _link: Link | None = None
    _told: LinkState = field(default_factory=lambda: LinkState(up=False))
    _kick: anyio.Event = field(default_factory=anyio.Event)
    _change: anyio.Event = field(default_factory=anyio.Event)
    _holds: int = 0
    _following: anyio.CancelScope | None = None

    # ---- how it is -----------------------------------------------------------------------------

    @property
    def session(self) -> Session | None:
        """Its connection; None while there is none."""
        return self._link.session if self._link is not None else None

    def link_info(self) -> LinkInfo:
        """For lists."""
        told, error = self._told, self._trouble or self._told.error
        if self.state == "stopped":
            return LinkInfo(up=False, via=self.via, losses=told.losses)
        reason = "" if self.state == "online" else error.message if error else told.reason
        return LinkInfo(
            up=told.up,
            via=self.via,
            latency_ms=round(told.latency * 1000, 2) if told.up and told.latency else None,
            reason=reason,
            action=error.action if error is not None and reason else "",
            code=error.code if error is not None and reason else "",
            next_try_s=round(told.next_try, 1) if told.next_try is not None else None,
            losses=told.losses,
        )

    async def until(self, *states: str, limit: float) -> bool:
        """Return when it is in one of these states; whether it came to that in `limit` seconds."""
        with anyio.move_on_after(limit):
            while self.state not in states:
                await self._change.wait()
        return self.state in states

    @property
    def trouble(self) -> RbeeError:
        """Why it is not online."""
        told = self._trouble or self._told.error
        return told or HiveOffline(f"hive {self.record.name} is {self.state}: {self._told.reason}")

    def _stand(self, state: str, trouble: RbeeError | None = None) -> None:
        self.state, self._trouble = state, trouble
        self.settled |= state != "connecting"
        self._changed()

    def _changed(self) -> None:
        self._change.set()
        self._change = anyio.Event()
        self.world.changed(self.record.name)

    def _save(self, **what: object) -> None:
        self.record = msgspec.structs.replace(self.record, **what)
        self.world.save(self.record)

    # ---- what others do with it ----------------------------------------------------------------

    async def reach(self, limit: float) -> None:
        """Return when its hive is online, tried at once where it was not. Raises why it is not."""
        if self.state != "online":
            self._stand("connecting")
            self.retry()
            await self.until("online", *SETTLED, limit=limit)
        if self.state != "online":
            trouble = self.trouble
            trouble.details.setdefault("hive", self.record.name)
            raise trouble

    def retry(self) -> None:
        """Try at once what it waits to try again."""
        self._kick.set()
        if self._link is not None:
            self._link.retry()

    @asynccontextmanager
    async def held(self) -> AsyncGenerator[None]:
        """For the length of a block its hive is not followed and not started; its link stays."""
        self._holds += 1
        self._kick.set()
        if self._following is not None:
            self._following.cancel()
        try:
            yield
        finally:
            self._holds -= 1
            self._kick.set()

    # ---- life ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, and follow the hive there, for ever. What must not be is told of, and the
        machine tried again: it must not take the queen or its own link for good with it."""
        pause = Backoff(5.0, 300.0)
        while True:
            try:
                await self._live()
            except Exception as exc:
                log.exception("following %s failed", self.record.name)
                self._stand("offline", InternalError(f"a defect: {type(exc).__name__}: {exc}"))
                await self._kicked(pause.take())

    async def _live(self) -> None:
        try:
            while True:
                self._stand("connecting")
                try:
                    machine = await anyio.to_thread.run_sync(
                        self.world.hosts.find, self.record.target
                    )
                except RbeeError as exc:
                    self._stand("refused", exc)
                    await self._kicked(None)
                    continue
                await self._stay(machine)
        finally:
            self._stand("stopped")

    async def _stay(self, machine: Machine) -> None:
        self._link = Link(
            machine=machine,
            known=self.world.known,
            tell=self._heard,
            use=self._use,
            backoff=Backoff(0.5, 30.0),
        )
        try:
            await self._link.run()
        finally:
            self._link = None

    def _heard(self, told: LinkState) -> None:
        self._told = told
        if told.up:
            self.world.changed(self.record.name)
            return
        log.warning("link to %s: %s", self.record.name, told.reason)
        self._stand("offline" if told.next_try is not None else "refused")

    async def _use(self, session: Session) -> None:
        """With each session: until it is lost."""
        from rbee.ssh.known import fingerprint

        key = session.connection.get_server_host_key()
        now = self.world.clock.utc()
        self._save(connected_at=now, fingerprint=fingerprint(key) if key else None)
        self._told = LinkState(up=True, losses=self._told.losses)
        pause = Backoff(0.5, 15.0)
        while True:
            try:
                if self._holds or self.world.closing:
                    self._stand("working")
                    await self._kicked(None)
                    continue
                self._stand("connecting")
                began = anyio.current_time()
                await self._follow(session)
                if anyio.current_time() - began > 30.0:
                    pause.reset()
            except VersionMismatch as exc:
                self._stand("other version", exc)
            except NotFound as exc:
                self._stand("not installed", exc)
            except RbeeError as exc:
                if session.lost:
                    raise session.gone() from exc
                self._stand("offline", exc)
            await self._kicked(None if self.state in HOPELESS else pause.take())

    async def _kicked(self, limit: float | None) -> None:
        with anyio.move_on_after(limit):
            await self._kick.wait()
        self._kick = anyio.Event()

    async def _follow(self, session: Session) -> None:
        """Find or start the hive and follow it until it is gone or this is told to stop."""
        why = ""
        with anyio.CancelScope() as scope:
            self._following = scope
            try:
                why = await self._serve(session, await self._found(session))
            finally:
                self._following = None
        if scope.cancelled_caught or self._holds:
            return
        lost = HiveOffline(
            f"hive {self.record.name} was lost ({why}); it is looked for, or started again",
            action=f"See what it said: rbee hive logs {self.record.name}",
        )
        self._stand("connecting", lost)
        try:
            await session.latency(ALIVE_LIMIT)
        except RbeeError as exc:
            session.drop("no answer any more")
            raise ConnectionFailed(f"{session.machine} does not answer any more") from exc
        raise lost

    async def _found(self, session: Session) -> HiveUp:
        """The hive there; one that lives and does not answer gives way to a new one."""
        try:
            return await self.ensure(session)
        except HiveOffline as exc:
            log.warning("%s; it is replaced", exc.message)
            self._stand("connecting", exc)
            return await self.ensure(session, "--replace")

    async def ensure(self, session: Session, *more: str) -> HiveUp:
        """The hive that runs there, started if need be. `more`: flags of `rbee-hive`.

        Raises NotFound where rbee is not installed, VersionMismatch, RemoteCommandFailed.
        """
        record = self.record
        flags = ["--ensure", "--name", record.name]
        if record.models_dir:
            flags += ["--models-dir", record.models_dir]
        done = await self.command(session, *flags, *more)
        running = read(done, record.name)
        self.alone = running.alone
        if running.version != record.version:
            self._save(version=running.version)
        if running.protocol != PROTOCOL:
            raise VersionMismatch(
                f"hive {record.name} runs rbee {running.version} (protocol {running.protocol}),"
                f" this queen rbee {__version__} (protocol {PROTOCOL})",
                action=f"rbee hive upgrade {record.name}",
                hive=running.version,
                queen=__version__,
            )
        return running

    def words(self, *flags: str) -> list[str]:
        """The command line for `rbee-hive` there."""
        return words(self.record.path, *flags)

    async def command(
        self, session: Session, *flags: str, timeout: float = ENSURE_LIMIT, version: str = ""
    ) -> Done:
        """Run `rbee-hive` there. Raises NotFound where it is not installed, and what it says.
        `version`: see `remote_hive.words`."""
        line = words(self.record.path, *flags, version=version)
        done = await session.run(line, timeout=timeout)
        name = self.record.name
        if done.status == ABSENT:
            if self.record.version is not None:
                self._save(version=None)
            raise NotFound(
                f"rbee is not installed on {name} ({session.machine})",
                action=f"rbee hive install {name}",
            )
        if done.status != 0:
            raise said(done, name)
        return done

    async def _serve(self, session: Session, running: HiveUp) -> str:
        """Follow it; returns why it is gone."""
        world, name = self.world, self.record.name
        door = hashlib.sha256(name.encode()).hexdigest()[:16]
        local, remote = Unix(str(world.folder / f"h-{door}.sock")), Tcp(port_of(running.url))
        async with forwarded(session, local, remote), task_group() as tasks:
            ways = Ways(session, world.known, world.folder, tasks, self.record.forward)

            async def told(event: Event) -> None:
                joins = isinstance(event, HiveJoined)
                if joins:
                    world.links[name] = link
                await world.call(event)
                if joins:
                    self.via = ways.via
                    self._stand("online")
                    await world.joined()

            way = Way("ssh", local.path, self.record.labels, ways, world.queen)
            link = HttpLink(running, told, world.post, way)
            tasks.start_soon(self._lease, link)
            tasks.start_soon(self._learn_mac, session)
            try:
                why = await link.run()
            finally:
                if world.links.get(name) is link:
                    del world.links[name]
            tasks.cancel_scope.cancel()
        return why

    async def _learn_mac(self, session: Session) -> None:
        """By which address it could be woken; once for each connection."""
        from rbee.discovery.waking import learn

        try:
            mac = await learn(session)
        except RbeeError as exc:
            log.debug("the MAC of %s is not known: %s", self.record.name, exc)
            return
        if mac is not None and mac != self.record.mac:
            self._save(mac=mac)

    async def _lease(self, link: HttpLink) -> None:
        """Say that the queen is there, for as long as she is."""
        while True:
            try:
                await link.lease()
            except RbeeError as exc:  # its telemetry tells when it is gone
                log.debug("hive %s did not hear that its queen is there: %s", link.name, exc)
            await anyio.sleep(LEASE_EVERY)
