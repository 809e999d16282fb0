"""rbee put on a machine, exchanged there, and taken off again.

Owns the order of these: what is to be sent is made ready first, nothing that works is touched until
the new is proven there, what runs is drained before it is replaced, and what does not get healthy
is replaced by what was there before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import msgspec

from rbee import __version__
from rbee.core.events import Event, HiveResting
from rbee.errors import InstallFailed, RbeeError
from rbee.protocol.machines import SETTLED
from rbee.protocol.operations import HiveInstall, HiveUninstall, HiveUpgrade

if TYPE_CHECKING:
    from rbee.daemons.queen.machine import AddedMachine
    from rbee.daemons.queen.machines import Machines
    from rbee.ssh.install import Installed, Progress
    from rbee.ssh.session import Session

log = logging.getLogger("rbee.queen")
Result = dict[str, object]
Say = Callable[[str, str, float | None], None]
DRAIN_LIMIT = 120.0
"""Seconds that what runs on a hive gets to end before that is replaced; the rest goes on elsewhere
or after it."""
HEALTHY_LIMIT = 60.0
STOP_LIMIT = 45.0
LOOK = 0.2


class Installing:
    """`cache` is for what is made ready once and sent often; `busy` tells how many jobs run on a
    hive."""

    def __init__(
        self,
        *,
        machines: Machines,
        cache: Path,
        post: Callable[[Event], None],
        busy: Callable[[str], int],
    ) -> None:
        self._machines = machines
        self._cache = cache
        self._post = post
        self._running = busy

    async def put(
        self, name: str, session: Session, request: HiveInstall | HiveUpgrade, say: Say
    ) -> Result:
        """Have this queen's version there, and running. Raises InstallFailed and what the link
        and the disks raise."""
        from rbee.ssh.install import install
        from rbee.ssh.probe import probe
        from rbee.ssh.wheelhouse import Wish, outlook, supply

        record = self._machines.record(name)
        path, python = record.path, record.python
        if isinstance(request, HiveInstall):
            path, python = request.path or path, request.python or python
        say("looking", f"looking at what {session.machine} is and has", None)
        facts = await probe(session, path, python=python)
        wish = Wish(
            extras=tuple(request.extras) if request.extras is not None else None,
            online=request.online,
            root=path,
            python=python,
        )
        look = await anyio.to_thread.run_sync(outlook, facts, wish, self._cache)
        for extra in look.extras:
            with_it = "with" if extra.chosen else "without"
            say("planning", f"{with_it} {extra.name}: {extra.why}", None)
        for note in look.notes:
            say("planning", note, None)
        order = await supply(
            facts, wish, self._cache, lambda text, part: say("preparing", text, part)
        )
        installed = await install(session, order, facts, lambda p: say(*_shown(p)))
        self._machines.change(
            msgspec.structs.replace(
                self._machines.record(name),
                version=installed.version,
                path=path,
                python=python,
                wanted=True,
            )
        )
        machine = self._machines.get(name) or self._machines.follow(self._machines.record(name))
        same = record.version == installed.version
        await self._run(machine, session, installed, same, say)
        told: Result = {
            "version": installed.version,
            "before": installed.before.partition("-")[0] or None,
            "extras": list(order.extras),
            "already": installed.again,
            "root": installed.root,
        }
        return told

    async def take_off(self, name: str, session: Session, request: HiveUninstall, say: Say) -> None:
        """Remove what was put there; the hive has been stopped. Raises InstallFailed."""
        from rbee.ssh.install import uninstall
        from rbee.ssh.probe import probe

        record = self._machines.record(name)
        say("removing", f"removing rbee from {session.machine}", None)
        facts = await probe(session, record.path)
        await uninstall(session, facts, models=request.models)
        record = self._machines.record(name)
        self._machines.change(msgspec.structs.replace(record, version=None, wanted=False))

    async def _run(
        self, machine: AddedMachine, session: Session, installed: Installed, same: bool, say: Say
    ) -> None:
        """Have what was installed run in place of what does; `same`: that is the same version."""
        name = machine.record.name
        online = machine.state == "online"
        if online and same and installed.again and not installed.before:
            return
        ended = False
        try:
            if online:
                await self._drain(name, say)
            say("starting", f"starting rbee {installed.version} on {name}", None)
            await self._exchange(machine, session, installed.before)
            ended = True
            await machine.until("online", *SETTLED, limit=HEALTHY_LIMIT)
            if machine.state != "online":
                raise machine.trouble
        except RbeeError as exc:
            self._post(HiveResting(name, False))
            if not installed.before:
                raise
            await self._go_back(machine, session, installed, exc, say)
        except BaseException:  # cancelled: what was in use is still in use
            self._post(HiveResting(name, False))
            if not ended:
                with anyio.move_on_after(STOP_LIMIT, shield=True), suppress(RbeeError):
                    async with machine.held():
                        await self._switch_back(machine, session, installed, say)
            raise

    async def _exchange(self, machine: AddedMachine, session: Session, running: str) -> None:
        """End what runs there, by its own command; the machine then starts what is installed."""
        name = machine.record.name
        async with machine.held():
            stop = ("--stop", "--name", name)
            await machine.command(session, *stop, timeout=STOP_LIMIT, version=running)
            await machine.until("working", limit=10.0)

    async def _drain(self, name: str, say: Say) -> None:
        self._post(HiveResting(name, True))
        told = -1
        with anyio.move_on_after(DRAIN_LIMIT):
            while (left := self._running(name)) > 0:
                if left != told:
                    told = left
                    say("draining", f"waiting for {left} job(s) on {name} to end", None)
                await anyio.sleep(LOOK)

    async def _go_back(
        self,
        machine: AddedMachine,
        session: Session,
        installed: Installed,
        trouble: RbeeError,
        say: Say,
    ) -> None:
        """The version from before runs again; the error tells of both."""
        name = machine.record.name
        old = installed.before.partition("-")[0]
        say("going back", f"rbee {installed.version} is not healthy: {trouble.message}", None)
        await self._switch_back(machine, session, installed, say)
        await self._exchange(machine, session, installed.before)
        await machine.until("online", *SETTLED, limit=HEALTHY_LIMIT)
        now = f"rbee {old} runs again" if machine.state == "online" else f"{name} {machine.state}"
        raise InstallFailed(
            f"rbee {installed.version} did not get healthy on {name}: {trouble.message}; {now}",
            action=f"See `rbee hive logs {name}`; this queen is rbee {__version__}.",
            step="start",
            state=machine.state,
        )

    async def _switch_back(
        self, machine: AddedMachine, session: Session, installed: Installed, say: Say
    ) -> None:
        """The version from before is the one in use; what runs is left alone."""
        from rbee.ssh.install import roll_back
        from rbee.ssh.probe import probe

        if not installed.before:
            return
        facts = await probe(session, machine.record.path)
        await roll_back(session, facts, lambda p: say(*_shown(p)), installed.before)
        old = installed.before.partition("-")[0]
        self._machines.change(msgspec.structs.replace(machine.record, version=old))


def _shown(progress: Progress) -> tuple[str, str, float | None]:
    part = progress.done / progress.size if progress.size else float(progress.finished)
    text = f"step {progress.number} of {progress.total}: {progress.title}"
    if progress.size:
        text += f" ({progress.done >> 20} of {progress.size >> 20} MiB)"
    return "installing", text, (progress.number - 1 + part) / progress.total
