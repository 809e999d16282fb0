"""Finding a queen, starting one, keeping one: what every command and the screen begin with.

Owns the three ways a queen is started: in the background on purpose (persistent), because a command
needed one (linger), or owned by a screen or an ephemeral command (a pipe whose end takes her down).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from rbee import __version__
from rbee.access.ours import is_that
from rbee.access.presented import learn
from rbee.client import QueenClient, QueenStatus
from rbee.daemons.detached import DetachedProcess, gone, send
from rbee.daemons.process import NETWORK, clean_environment, open_log, python_module, tail
from rbee.daemons.state import DETACH, locked, read_state
from rbee.errors import (
    Forbidden,
    MissingApiKey,
    QueenRunning,
    QueenUnreachable,
    RbeeError,
    TimedOut,
    VersionMismatch,
)

if TYPE_CHECKING:
    from rbee.paths import Paths
    from rbee.settings import Settings

log = logging.getLogger("rbee.launch")
START_LIMIT = 30.0
CASCADE_LIMIT = 30.0
KILL_AFTER = 5.0
BACKOFF_FIRST, BACKOFF_MAX, STABLE = 1.0, 60.0, 300.0
"""Seconds between restarts of a queen that dies: doubling, reset when she lived STABLE."""
_ERROR = re.compile(r"error (?P<code>[A-Z_]+): (?P<message>.*)\n  → (?P<action>.*)")
"""How a queen that cannot start says so, in her log."""
LOG_LIMIT = 10 << 20
"""A queen's log larger than this is set aside as `.1` at her next start."""

HUB = frozenset(
    {
        *("HF_ENDPOINT", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME", "HF_HUB_CACHE"),
        *("HUGGINGFACE_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "OLLAMA_MODELS"),
        *("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_HUB_ETAG_TIMEOUT"),
        *("HF_HUB_DOWNLOAD_TIMEOUT", "DO_NOT_TRACK"),
    }
)


@dataclass(frozen=True)
class Found:
    """A queen that answers."""

    url: str
    pid: int
    version: str
    lifetime: str
    here: bool
    """Whether `pid` is a process of this machine that our own state file names; only then may it
    be waited for or signalled."""


async def find(settings: Settings, paths: Paths) -> Found | None:
    """The running queen: at `queen.url` if that is set, else where the state file says. None: none.

    Raises QueenUnreachable when `queen.url` is set and nobody answers there.
    """
    if settings.queen.url:
        learn(settings.queen.url, settings, paths)
        try:
            return await _ask(settings.queen.url, here=None)
        except QueenUnreachable as exc:
            there = "Start her there; without `queen.url` one is started here."
            action = there if exc.action == exc.hint else exc.action
            raise QueenUnreachable(exc.message, action=action, away=True) from exc
    state = read_state(paths)
    if state is not None and is_that(state.pid, state.born):
        learn(state.url, settings, paths)
        with contextlib.suppress(QueenUnreachable):
            return await _ask(state.url, here=state.pid)
    return None


async def _ask(url: str, *, here: int | None) -> Found:
    async with QueenClient(url) as client:
        info = await client.info()
    return Found(url, info.pid, info.version, info.lifetime, here == info.pid)


async def start_background(
    settings: Settings, paths: Paths, *, lifetime: str, narrate: Callable[[str], None]
) -> Found:
    """Start a queen that outlives us. Raises QueenUnreachable with her last words otherwise."""
    narrate("starting the queen")
    process = _spawn(settings, paths, lifetime=lifetime, lifeline=False)
    found = await _await_up(process, settings, paths)
    process.forget()
    narrate(f"queen is up at {found.url} (pid {found.pid})")
    return found


async def stop(found: Found, paths: Paths, *, timeout: float = CASCADE_LIMIT) -> None:
    """Take a queen down with everything she runs; returns when she is gone, killed if need be.

    Raises MissingApiKey or Forbidden when she does not do that for us.
    """
    try:
        async with QueenClient(found.url) as client:
            await client.shutdown()
    except (MissingApiKey, Forbidden):
        raise
    except RbeeError as exc:
        log.info("asking the queen to stop: %s", exc)
    with anyio.move_on_after(timeout):
        await _until_gone(found)
        return
    if not found.here:
        raise TimedOut(
            f"the queen at {found.url} still answers after {timeout:g} s",
            action="She runs on another machine: stop her there.",
        )
    send(found.pid, signal.SIGTERM)
    with anyio.move_on_after(KILL_AFTER):
        await gone(found.pid)
        return
    send(found.pid, signal.SIGKILL)
    await gone(found.pid)


@asynccontextmanager
async def queen(
    settings: Settings, paths: Paths, *, ephemeral: bool, narrate: Callable[[str], None]
) -> AsyncGenerator[str]:
    """The URL of a queen for a command: found, or started to linger; `ephemeral`: owned."""
    found = await find(settings, paths)
    if found is not None:
        if found.version != __version__:
            raise VersionMismatch(
                f"the queen at {found.url} is rbee {found.version}, this command is {__version__}",
                action="rbee queen stop, then try again.",
            )
        yield found.url
        return
    if not ephemeral:
        yield (await start_background(settings, paths, lifetime="linger", narrate=narrate)).url
        return
    owner = Owned(settings, paths)
    narrate("starting the queen")
    found = await owner.start()
    try:
        yield found.url
    finally:
        with anyio.CancelScope(shield=True):
            await owner.stop()


@dataclass
class Owned:
    """A queen that goes when we go: she holds the other end of our pipe."""

    settings: Settings
    paths: Paths
    process: DetachedProcess | None = None
    found: Found | None = None

    async def start(self) -> Found:
        """Start her and wait until she answers."""
        self.process = _spawn(self.settings, self.paths, lifetime="owned", lifeline=True)
        self.found = await _await_up(self.process, self.settings, self.paths)
        return self.found

    async def wait(self) -> int:
        """Her exit code, negative for a signal."""
        assert self.process is not None
        return await self.process.wait()

    async def stop(self) -> None:
        """Close the pipe, wait for the cascade, kill what is left."""
        if self.process is None or self.process.ended:
            return
        self.process.release()
        with anyio.move_on_after(CASCADE_LIMIT):
            await self.process.wait()
            return
        self.process.kill()
        await self.process.wait()

    def leave(self) -> None:
        """Tell her to stay, then let go."""
        if self.process is None or self.process.ended:
            return
        self.process.release(DETACH)
        self.process.forget()


@dataclass
class Keeper:
    """Keeps a queen for a screen (rbee.client.QueenKeeper): attaches, or starts and supervises."""

    settings: Settings
    paths: Paths
    owned: bool = False
    starts: bool = True
    """False: attaches only, and waits; another process keeps her, and only that may end her."""
    _mine: Owned | None = None
    _found: Found | None = None
    _ending: bool = field(default=False)
    _hurry: anyio.Event = field(default_factory=anyio.Event)

    @property
    def url(self) -> str | None:
        """Where she was last found."""
        return None if self._found is None else self._found.url

    async def keep(self, report: Callable[[QueenStatus], None]) -> None:
        """Until cancelled: a queen is there, or is being brought back."""
        restarts, pause = 0, BACKOFF_FIRST
        while not self._ending:
            began = anyio.current_time()
            error: RbeeError | None = None
            try:
                how = await self._up(report, restarts)
            except RbeeError as exc:
                how, error = exc.message, exc
            if self._ending:
                return
            lived = anyio.current_time() - began
            pause = BACKOFF_FIRST if lived >= STABLE else pause
            restarts += 1
            status = QueenStatus(
                up=False, url=None, message=how, restarts=restarts, error=error, retry_s=pause
            )
            self._hurry = anyio.Event()
            report(status)
            with anyio.move_on_after(pause):
                await self._hurry.wait()
            pause = min(BACKOFF_MAX, pause * 2) if lived < STABLE else BACKOFF_FIRST

    async def _up(self, report: Callable[[QueenStatus], None], restarts: int) -> str:
        found = await find(self.settings, self.paths)
        if found is not None:
            self.owned, self._mine, self._found = False, None, found
            message = f"attached to the queen at {found.url}"
            report(QueenStatus(up=True, url=found.url, message=message, restarts=restarts))
            await _until_gone(found)
            return "the queen has gone"
        if not self.starts:
            raise QueenUnreachable("no queen runs", action="She is brought back by who keeps her.")
        self._mine = Owned(self.settings, self.paths)
        self.owned = True
        self._found = await self._mine.start()
        message = "queen started" if not restarts else "queen restarted"
        report(QueenStatus(up=True, url=self._found.url, message=message, restarts=restarts))
        code = await self._mine.wait()
        how = f"signal {-code}" if code < 0 else f"code {code}"
        return f"the queen ended with {how}"

    def hurry(self) -> None:
        """See QueenKeeper."""
        self._hurry.set()

    def reload(self) -> bool:
        """See QueenKeeper. Only a queen of this machine gets signals."""
        if self._found is None or not self._found.here:
            return False
        send(self._found.pid, signal.SIGHUP)
        return True

    async def stop(self) -> None:
        """See QueenKeeper."""
        self._ending = True
        if self._mine is not None:
            await self._mine.stop()
        elif self._found is not None and self.starts:
            await stop(self._found, self.paths)

    async def leave(self) -> None:
        """See QueenKeeper."""
        self._ending = True
        if self._mine is not None:
            self._mine.leave()


async def _await_other(settings: Settings, paths: Paths, code: int) -> Found | None:
    """The queen that somebody else was starting at the same moment; None when ours just failed."""
    with anyio.move_on_after(START_LIMIT):
        while True:
            other = await find(settings, paths)
            if other is not None:
                return other
            with locked(paths.lock_file) as mine:
                if mine or code != QueenRunning.exit_code:
                    return None
            await anyio.sleep(0.05)
    return None


async def _until_gone(found: Found) -> None:
    """Return when a queen has ended: by her process here, elsewhere by her not answering."""
    if found.here:
        await gone(found.pid)
        return
    silent = 0
    async with QueenClient(found.url) as client:
        while silent < 2:
            await anyio.sleep(1.0)
            try:
                await client.health()
                silent = 0
            except RbeeError:
                silent += 1


def hub_environment() -> dict[str, str]:
    """What the queen needs to reach the hub as this user does: endpoint, token, cache, proxies.

    She hands none of it to the processes that she starts.
    """
    return {k: v for k, v in os.environ.items() if k in HUB or k.upper() in NETWORK}


def secret(variable: str) -> bool:
    """Whether a variable of rbee's holds what a queen does not need to know."""
    return "TOKEN" in variable or "API_KEY" in variable


def _spawn(settings: Settings, paths: Paths, *, lifetime: str, lifeline: bool) -> DetachedProcess:
    paths.ensure()
    with contextlib.suppress(OSError):
        if paths.queen_log.stat().st_size > LOG_LIMIT:
            paths.queen_log.replace(paths.queen_log.with_suffix(".log.1"))
    args = ["--lifetime", lifetime, *(["--lifeline"] if lifeline else [])]
    for key in ("host", "port", "tls_cert", "tls_key"):
        args += ["--set", f"queen.{key}={getattr(settings.queen, key)}"]
    rbee_env = {k: v for k, v in os.environ.items() if k.startswith("RBEE_") and not secret(k)}
    with open_log(paths.queen_log) as out:
        return DetachedProcess(
            python_module("rbee.daemons.queen.main", *args),
            env=clean_environment(rbee_env | hub_environment()),
            output=out,
            lifeline=lifeline,
        )


async def _await_up(process: DetachedProcess, settings: Settings, paths: Paths) -> Found:
    """Until the state file names this process and it answers."""
    code: int | None = None
    result: Found | None = None
    with anyio.move_on_after(START_LIMIT):
        async with anyio.create_task_group() as tasks:

            async def ended() -> None:
                nonlocal code
                code = await process.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(ended)
            while True:
                state = read_state(paths)
                if state is not None and state.pid == process.pid:
                    learn(state.url, settings, paths)
                    with contextlib.suppress(RbeeError):
                        result = await _ask(state.url, here=state.pid)
                        tasks.cancel_scope.cancel()
                        break
                await anyio.sleep(0.02)
    if result is not None:
        return result
    if code is None:
        process.kill()
        raise TimedOut(
            f"the queen did not answer within {START_LIMIT:g} s", action=f"See {paths.queen_log}."
        )
    other = await _await_other(settings, paths, code)
    if other is not None:
        return other
    last = tail(paths.queen_log, 2)
    told = _ERROR.fullmatch("\n".join(last))
    if told is not None:
        details = {"suggested_action": told["action"]}
        body = {"code": told["code"], "message": told["message"], "details": details}
        raise RbeeError.from_body({"error": body})
    words = " / ".join(line.strip() for line in last)
    raise QueenUnreachable(
        f"the queen ended with code {code}: {words}", action=f"See {paths.queen_log}."
    )
