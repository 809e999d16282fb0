"""Operations on machines carried out: add, start, stop, check, remove, wake.

Owns their steps and what is told of them. Putting rbee there is `installing`'s, a machine's link
`machine`'s. Every operation is a job of the brain; this does it and returns its result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import msgspec

from rbee import __version__
from rbee.daemons.queen.installing import Installing
from rbee.daemons.queen.links import HiveLink, HttpLink
from rbee.daemons.queen.turns import Turns
from rbee.errors import Conflict, HiveExists, HiveOffline, HostKeyUnknown, NotFound, RbeeError
from rbee.protocol.machines import SETTLED, HiveRecord
from rbee.protocol.operations import (
    HiveAdd,
    HiveCheck,
    HiveInstall,
    HiveRefresh,
    HiveRemove,
    HiveRestart,
    HiveStart,
    HiveStop,
    HiveTask,
    HiveUninstall,
    HiveUpgrade,
    HiveWake,
)
from rbee.ssh.groups import task_group

if TYPE_CHECKING:
    from rbee.clock import Clock
    from rbee.core.events import Event
    from rbee.daemons.queen.machine import AddedMachine
    from rbee.daemons.queen.machines import Machines
    from rbee.paths import Paths
    from rbee.ssh.hosts import Machine
    from rbee.ssh.session import Session

log = logging.getLogger("rbee.queen")
Result = dict[str, object]
Say = Callable[[str, str, float | None], None]
"""Stage, sentence, progress 0..1."""
UP_LIMIT = 90.0
"""Seconds for a hive to come: its start is given 30, and so is each of three tries to connect."""
STOP_LIMIT = 45.0
CLEAN_LIMIT = 8.0
KEYS = 9
"""Host keys that one addition may accept: a machine behind as many jumps as there may be."""
RESERVED = frozenset({"nearby", "ready"})
"""Parts of paths below /v1/hives."""


class MachineTasks:
    """`call` has the brain handle an event."""

    def __init__(
        self,
        *,
        machines: Machines,
        paths: Paths,
        clock: Clock,
        links: dict[str, HiveLink],
        post: Callable[[Event], None],
        busy: Callable[[str], int],
    ) -> None:
        self._machines = machines
        self._clock = clock
        self._links = links
        self._turns = Turns()
        self._installing = Installing(
            machines=machines, cache=paths.cache / "wheelhouse", post=post, busy=busy
        )

    def check(self, request: HiveTask) -> None:
        """Refuse at the door what can be refused there."""
        if isinstance(request, HiveAdd):
            if request.name in RESERVED:
                raise HiveExists(
                    f"{request.name} cannot be a machine's name: it is a word of the API's paths",
                    action="Choose another name.",
                )
            self._machines.check_free(request.name)
            return
        name = _name(request)
        if isinstance(request, HiveCheck | HiveRefresh) and name in self._links:
            return
        self._machines.record(name)

    async def do(self, request: HiveTask, say: Say) -> Result:
        """Carry it out. One at a time for each machine but for looks; else Conflict."""
        if isinstance(request, HiveCheck):
            return await self._do(request, say)
        with self._turns.of(_name(request)):
            return await self._do(request, say)

    async def settle(self) -> None:
        """Return when what was broken off has been cleaned up there, while links still stand."""
        if not await self._turns.over(CLEAN_LIMIT):
            log.warning("what was broken off on a machine is not cleaned up there")

    async def _do(self, request: HiveTask, say: Say) -> Result:
        match request:
            case HiveAdd():
                return await self._add(request, say)
            case HiveInstall() | HiveUpgrade() | HiveUninstall():
                return await self._put(request, say)
            case HiveStart():
                return await self._start(request, say)
            case HiveStop(hive=hive):
                await self._stop(hive, say)
                return self._told(hive)
            case HiveRestart(hive=hive):
                await self._stop(hive, say)
                return await self._start(HiveStart(hive=hive), say)
            case HiveRefresh(hive=hive):
                return await self._refresh(hive, say)
            case HiveRemove(hive=hive):
                return await self._remove(hive, say)
            case HiveWake(hive=hive):
                return await self._wake(hive, say)
            case HiveCheck(hive=hive):
                return await self._check(hive, say)
            case _:
                raise AssertionError(request)

    # ---- add -----------------------------------------------------------------------------------

    async def _add(self, request: HiveAdd, say: Say) -> Result:
        from rbee.ssh.known import fingerprint
        from rbee.ssh.probe import probe
        from rbee.ssh.session import opened

        self._machines.check_free(request.name)
        machine = await self._find(request.target)
        await self._trust(machine, request, say)
        async with opened(machine, self._machines.known) as session:
            say("looking", f"looking at what {machine} is and has", None)
            facts = await probe(session, request.path)
            key = session.connection.get_server_host_key()
        record = HiveRecord(
            name=request.name,
            target=request.target,
            path=request.path,
            python=request.python,
            models_dir=request.models_dir,
            labels={k: v for k, v in request.labels.items() if v},
            forward=request.forward,
            added_at=self._clock.utc(),
            connected_at=self._clock.utc(),
            version=facts.current.partition("-")[0] or None,
            fingerprint=fingerprint(key) if key else None,
        )
        self._machines.check_free(request.name)  # another one may have taken it meanwhile
        known = self._machines.registry.all()
        for other in await anyio.to_thread.run_sync(self._same, machine, known):
            say("known", f"{other} is the same machine: its memory counts for both", None)
        self._machines.registry.add(record)
        followed = self._machines.follow(record)
        if record.version is not None:
            say("starting", f"starting the hive of {request.name}", None)
            await followed.until("online", *SETTLED, limit=UP_LIMIT)
        else:
            await followed.until("not installed", *SETTLED, limit=10.0)
        return self._told(request.name) | {"machine": msgspec.to_builtins(facts)}

    async def _trust(self, machine: Machine, request: HiveAdd, say: Say) -> None:
        """Connect once; keys that may be trusted are, those of machines on the way included."""
        from rbee.ssh.session import connect

        known = self._machines.known
        for _ in range(KEYS):
            try:
                session = await connect(machine, known, tell=_trying(machine, say))
            except HostKeyUnknown as exc:
                shown = str(exc.details.get("fingerprint"))
                if not request.accept_new and request.accept != shown:
                    raise
                host, key = str(exc.details.get("host")), str(exc.details.get("key"))
                await anyio.to_thread.run_sync(known.pin, host, key)
                say("trusting", f"the host key {shown} of {host} is trusted from now on", None)
            else:
                await session.aclose()
                return
        raise Conflict(f"{machine} shows a new host key each time", action="Look at its sshd.")

    def _same(self, machine: Machine, known: list[HiveRecord]) -> list[str]:
        """The names of those that are that very login. In a thread."""
        names: list[str] = []
        for record in known:
            with suppress(RbeeError):  # an entry of the config that is none any more
                if _login(self._machines.hosts.find(record.target)) == _login(machine):
                    names.append(record.name)
        return names

    async def _find(self, target: str) -> Machine:
        return await anyio.to_thread.run_sync(self._machines.hosts.find, target)

    # ---- start and stop ------------------------------------------------------------------------

    async def _start(self, request: HiveStart, say: Say) -> Result:
        name = request.hive
        record = self._machines.record(name)
        if not record.wanted:
            self._machines.change(msgspec.structs.replace(record, wanted=True))
        machine = self._machines.follow(self._machines.record(name))
        say("connecting", f"connecting to {name}", None)
        await self._up(machine, say)
        if request.detached_s is not None or machine.alone is not None:
            link = self._links.get(name)
            if not isinstance(link, HttpLink):
                raise HiveOffline(f"hive {name} has just gone")
            await link.lease(request.detached_s or 0.0)
            machine.alone = request.detached_s
            stays = f"for {request.detached_s:g} s" if request.detached_s else "for its lease"
            say("detached", f"it stays {stays} without a queen", None)
        return self._told(name)

    async def _up(self, machine: AddedMachine, say: Say) -> None:
        """Wait until its hive is online; raises why it is not."""
        async with task_group() as tasks:

            async def tell() -> None:
                while not await machine.until("online", limit=5.0):
                    said = machine.link_info()
                    what = f"{machine.record.name} is {machine.state}"
                    say("starting", f"{what}: {said.reason}" if said.reason else what, None)

            tasks.start_soon(tell)
            await machine.reach(UP_LIMIT)
            tasks.cancel_scope.cancel()

    async def _stop(self, name: str, say: Say) -> None:
        machine = self._machines.get(name)
        # Held until it is left: between the two its hive would be started again.
        async with machine.held() if machine is not None else nullcontext():
            if machine is not None:
                say("stopping", f"stopping the hive of {name} and its workers", None)
                try:
                    async with self._session(name, say) as session:
                        await machine.command(session, "--stop", "--name", name, timeout=STOP_LIMIT)
                except NotFound:
                    log.info("nothing to stop on %s: rbee is not installed there", name)
            record = self._machines.record(name)  # it may be another one by now
            self._machines.change(msgspec.structs.replace(record, wanted=False))
            await self._machines.leave(name)

    async def _refresh(self, name: str, say: Say) -> Result:
        if self._machines.registry.get(name) is None:
            return self._told(name)
        say("connecting", f"connecting to {name}", None)
        await self._machines.leave(name)
        await self._up(self._machines.follow(self._machines.record(name)), say)
        return self._told(name)

    async def _remove(self, name: str, say: Say) -> Result:
        """What cannot be reached cannot be stopped: its lease ends it."""
        target = self._machines.record(name).target
        note = None
        try:
            with anyio.fail_after(STOP_LIMIT):
                await self._stop(name, say)
        except (RbeeError, TimeoutError) as exc:
            why = exc.message if isinstance(exc, RbeeError) else "it did not answer in time"
            note = f"its hive could not be told to stop ({why}); it ends when its lease is over"
        await self._machines.remove(name)
        told: Result = {"name": name, "target": target}
        return told | ({"message": note} if note else {})

    # ---- looks ---------------------------------------------------------------------------------

    async def _check(self, name: str, say: Say) -> Result:
        """The way a token goes: link, hive, and the answer of both."""
        steps: list[Result] = []

        async def step(title: str, work: Callable[[], Awaitable[object]]) -> None:
            began = time.perf_counter()
            say("checking", title, None)
            await work()
            took = round((time.perf_counter() - began) * 1000, 2)
            steps.append({"step": title, "ms": took})

        machine = self._machines.get(name)
        if self._machines.registry.get(name) is not None:
            if machine is None:
                raise HiveOffline(f"hive {name} is stopped", action=f"rbee hive start {name}")
            session = machine.session
            if session is None:
                raise machine.trouble
            await step(f"the link to {session.machine}", session.latency)
        link = self._links.get(name)
        if link is None:
            raise machine.trouble if machine else HiveOffline(f"hive {name} is offline")
        await step("the hive's answer", link.ping)
        told: Result = {"hive": name, "queen_version": __version__, "steps": steps}
        return told | {"version": self._machines.info(name).version}

    async def _wake(self, name: str, say: Say) -> Result:
        from rbee.discovery.waking import learned, wake

        record = self._machines.record(name)
        if name in self._links:
            return self._told(name) | {"already": True}
        if record.mac is None:
            raise Conflict(
                f"the network address (MAC) of {name} is not known: it is learned while its link "
                "is up",
                action="Switch it on by hand once.",
            )
        began = self._clock.monotonic()
        machine = self._machines.follow(record)
        limit = max(120.0, 3 * (record.wake_seconds or 0.0))
        say("waking", f"waking {name} ({record.mac})", None)
        with anyio.move_on_after(limit):
            while machine.state != "online":
                await wake(record.mac)
                machine.retry()
                await machine.until("online", limit=10.0)
                took = self._clock.monotonic() - began
                say("waking", f"{name} is {machine.state} after {took:.0f} s", took / limit)
        if machine.state != "online":
            raise machine.trouble
        took = self._clock.monotonic() - began
        seconds = learned(record.wake_seconds, took)
        self._machines.change(msgspec.structs.replace(machine.record, wake_seconds=seconds))
        return self._told(name) | {"seconds": round(took, 1)}

    # ---- what others need ----------------------------------------------------------------------

    async def _put(self, request: HiveInstall | HiveUpgrade | HiveUninstall, say: Say) -> Result:
        name = request.hive
        if isinstance(request, HiveUninstall):
            await self._stop(name, say)
            async with self._session(name, say) as session:
                await self._installing.take_off(name, session, request, say)
            return self._told(name)
        async with self._session(name, say) as session:
            told = await self._installing.put(name, session, request, say)
        return self._told(name) | told

    @asynccontextmanager
    async def _session(self, name: str, say: Say) -> AsyncGenerator[Session]:
        """The machine's link, or where there is none a connection for this."""
        from rbee.ssh.session import opened

        machine = self._machines.get(name)
        if machine is not None and machine.session is not None:
            yield machine.session
            return
        found = await self._find(self._machines.record(name).target)
        async with opened(found, self._machines.known, tell=_trying(found, say)) as session:
            yield session

    def _told(self, name: str) -> Result:
        return {"hive": msgspec.to_builtins(self._machines.info(name))}


def _name(request: HiveTask) -> str:
    if isinstance(request, HiveAdd):
        return request.name
    name = getattr(request, "hive", None)
    assert isinstance(name, str)
    return name


def _trying(machine: Machine, say: Say) -> Callable[[int, int], None]:
    return lambda attempt, tries: say(
        "connecting", f"connecting to {machine} (try {attempt} of {tries})", None
    )


def _login(machine: Machine) -> tuple[object, ...]:
    return str(machine), machine.proxy_command, [str(jump) for jump in machine.jumps]
