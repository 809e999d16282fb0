"""Carrying out a plan on another machine, step by step, with progress; and undoing what fails.

Owns the order of things: nothing is switched to before it has told its version, and after a failure
what was in use is still in use. What the steps are is `plan`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from rbee.errors import (
    ConnectionFailed,
    InstallFailed,
    PayloadTooLarge,
    RbeeError,
    RemoteCommandFailed,
    TimedOut,
)
from rbee.ssh.plan import Order, Plan, Run, Step, back, plan, removal
from rbee.ssh.probe import Facts
from rbee.ssh.sending import upload
from rbee.ssh.session import Session

CLEAN_LIMIT = 60.0


@dataclass(frozen=True)
class Progress:
    """Where an installation is: step `number` of `total`, bytes of it where it sends a file."""

    number: int
    total: int
    title: str
    done: int = 0
    size: int = 0
    finished: bool = False


Tell = Callable[[Progress], None]


@dataclass(frozen=True)
class Installed:
    """What is in use there now. `again`: it was there already."""

    name: str
    root: str
    version: str
    command: str
    """The path of `rbee` there, which stays the same over upgrades."""
    before: str
    """What was in use before; empty: nothing."""
    again: bool


async def install(session: Session, order: Order, facts: Facts, tell: Tell) -> Installed:
    """Install and switch to it. Raises InstallFailed (`details.step`, `.tail`), InsufficientDisk,
    ValidationFailed, ConnectionFailed; nothing that was in use is touched then."""
    digests, sizes = await anyio.to_thread.run_sync(_measure, order)
    planned = plan(order, facts, digests, sizes)
    await _carry_out(session, planned, tell)
    return _installed(planned, facts, order.version)


async def roll_back(
    session: Session, facts: Facts, tell: Tell, name: str | None = None
) -> Installed:
    """Switch to another installed version, the one before by default. Raises InstallFailed."""
    planned = back(facts, name)
    await _carry_out(session, planned, tell)
    return _installed(planned, facts, planned.name.partition("-")[0])


async def uninstall(session: Session, facts: Facts, *, models: bool = False) -> None:
    """Remove what was put there. The hive must have been stopped. Raises InstallFailed."""
    await _run(session, removal(facts, models=models))


def _installed(planned: Plan, facts: Facts, version: str) -> Installed:
    return Installed(
        name=planned.name,
        root=planned.root,
        version=version,
        command=f"{planned.root}/current/bin/rbee",
        before=facts.current if facts.current != planned.name else "",
        again=planned.ready,
    )


async def _carry_out(session: Session, planned: Plan, tell: Tell) -> None:
    steps: list[Step] = [*planned.steps, planned.switch]
    try:
        for number, step in enumerate(steps, 1):
            tell(Progress(number, len(steps), step.title))
            await _do(session, step, lambda done, size, n=number, s=step: tell(
                Progress(n, len(steps), s.title, done, size)
            ))  # fmt: skip
            tell(Progress(number, len(steps), step.title, finished=True))
    except BaseException:
        with anyio.move_on_after(CLEAN_LIMIT, shield=True):
            await _clean(session, planned)
        raise


async def _clean(session: Session, planned: Plan) -> None:
    """Where the link is gone, the mark `.incomplete` stays and the next installation cleans up."""
    try:
        await _run(session, planned.clean)
    except (ConnectionFailed, InstallFailed):
        return


async def _do(session: Session, step: Step, tell: Callable[[int, int], None]) -> None:
    if isinstance(step, Run):
        await _run(session, step)
        return
    try:
        await upload(session, step.source, step.target, mode=step.mode, tell=tell)
    except RemoteCommandFailed as exc:
        raise _failed(session, step, exc.message, list(exc.details.get("tail") or [])) from exc


async def _run(session: Session, step: Run) -> None:
    try:
        done = await session.run(step.argv, timeout=step.limit, limit=1 << 16, tail=True)
    except (TimedOut, PayloadTooLarge) as exc:
        raise _failed(session, step, exc.message, []) from exc
    if done.status != 0:
        said = done.last_lines
        raise _failed(session, step, said[-1] if said else f"status {done.status}", said)
    if (
        step.expect is not None
        and step.expect not in done.stdout.decode("utf-8", "replace").split()
    ):
        told = " ".join(done.last_lines)[:200] or "nothing"
        raise _failed(session, step, f"expected {step.expect}, it says {told}", done.last_lines)


def _failed(session: Session, step: Step, why: str, tail: list[str]) -> RbeeError:
    command = " ".join(step.argv) if isinstance(step, Run) else f"send to {step.target}"
    return InstallFailed(
        f"{session.machine}: step `{step.title}` failed: {why}",
        step=step.title,
        command=command[:500],
        tail=tail,
    )


def _measure(order: Order) -> tuple[dict[Path, str], dict[Path, int]]:
    digests: dict[Path, str] = {}
    sizes: dict[Path, int] = {}
    tools = (order.bundle, order.pip, order.uv, order.python_archive)
    for path in (order.wheel, *order.wheels, *tools):
        if path is None:
            continue
        with path.open("rb") as file:
            digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
        sizes[path] = path.stat().st_size
    return digests, sizes
