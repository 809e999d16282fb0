"""The one connection to a machine: made with tries, used for commands, measured, closed.

Owns the tries, the channels of a connection and what comes out of a command (bounded). Files are
`sending`'s, forwards are `forwards`'s, coming back after a cut is `reconnect`'s.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import anyio

from rbee.errors import (
    ConnectionFailed,
    ConnectionTimeout,
    PayloadTooLarge,
    RbeeError,
    TimedOut,
    ValidationFailed,
)
from rbee.ssh.attached import Attached, Kept
from rbee.ssh.limits import DEFAULTS, Limits

if TYPE_CHECKING:
    from asyncssh import SSHClientProcess

    from rbee.ssh.hosts import Machine
    from rbee.ssh.known import KnownHosts
    from rbee.ssh.login import Connection, Line

T = TypeVar("T")
OUTPUT_BYTES = 1 << 20
_AGAIN, _LINGERS = 0.05, 3.0
"""Seconds until a refused session is asked for again, then ever longer up to one second: a server
counts a session for a moment longer than we do. With none of ours, for so many seconds in all."""
_START = 30.0
"""Seconds for a server to answer whether a command may run; a cancelled caller waits for it. A link
that is dead ends before."""
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


@dataclass(frozen=True)
class Done:
    """How a command ended: exit status (negative: the signal) and what it wrote."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def last_lines(self) -> list[str]:
        """The last 10 lines of both, for people."""
        text = (self.stdout + b"\n" + self.stderr).decode("utf-8", "replace")
        return [line.rstrip()[:500] for line in text.splitlines() if line.strip()][-10:]


@dataclass
class Session:
    """An open connection. Made by `connect` or `opened`."""

    machine: Machine
    attempts: int
    """How many tries it took."""
    line: Line = field(repr=False)
    limits: Limits = DEFAULTS
    _open: int = 0
    _lingers: float = 0.0
    """Seconds for which a refusal may come from sessions that have just ended."""
    _freed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def connection(self) -> Connection:
        """asyncssh's own object, for the other modules of this package."""
        return self.line.connection

    @property
    def lost(self) -> bool:
        """Whether the link is gone."""
        return self.line.lost.is_set()

    async def wait_lost(self) -> str:
        """Return when the link is gone, with the reason in a few words."""
        await self.line.lost.wait()
        return self.line.why[0] if self.line.why else "the connection was closed"

    def drop(self, why: str) -> None:
        """End it at once, for this reason, as if it had been lost."""
        self.line.why.append(why)
        self.connection.abort()

    async def aclose(self) -> None:
        """Close the connection and everything on it. Takes 2 s at most for each machine of it."""
        await self.line.aclose()

    async def latency(self, limit: float = 10.0) -> float:
        """Seconds for a packet there and back, as the keepalive goes. Raises ConnectionFailed."""
        began = time.perf_counter()  # the clock of uvloop stands still for up to a millisecond
        with self.errors(), anyio.fail_after(limit):
            # no public call asks for a reply without opening a channel
            await self.connection._make_global_request(b"keepalive@openssh.com")  # pyright: ignore[reportPrivateUsage]
        if self.lost:
            raise self.gone()
        return time.perf_counter() - began

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        limit: int = OUTPUT_BYTES,
        timeout: float = 60.0,
        tail: bool = False,
    ) -> Done:
        """Run a command to its end. Every word reaches it as it is, whatever marks are in it.

        `limit`: bytes of stdout and of stderr. More ends the command with PayloadTooLarge; with
        `tail` only the last ones are kept. Raises TimedOut, ConnectionFailed.
        """
        named = " ".join(argv)[:200]
        out, err = Kept(limit, tail), Kept(limit, tail)
        try:
            with anyio.fail_after(timeout):
                async with self.attached(argv, stderr=err, grace=0.0) as process:
                    status = await process.feed(stdin, out)
        except TimeoutError as exc:
            raise TimedOut(
                f"`{named}` on {self.machine} did not end within {timeout:g} s",
                action="Try again when that machine is less busy.",
            ) from exc
        if status is None:
            raise PayloadTooLarge(
                f"`{named}` on {self.machine} wrote more than {limit} bytes and was ended",
                action="Have it write less.",
                limit=limit,
            )
        return Done(status, bytes(out), bytes(err))

    @asynccontextmanager
    async def attached(
        self, argv: Sequence[str], *, stderr: Kept | None = None, grace: float = 5.0
    ) -> AsyncGenerator[Attached]:
        """A running command whose stdin is its lifeline: at the end of the block, and when the link
        is lost, it reads the end of its input. `grace`: seconds it then has before SIGKILL."""
        quoted(argv)
        words, mark = Attached.wrapped(argv)
        kept = Kept(1 << 16, True) if stderr is None else stderr
        async with (
            self.channel(lambda: self._start(quoted(words))) as process,
            Attached.of(process, self, mark, kept) as running,
        ):
            yield running
            running.close_input()
            if grace:
                with anyio.move_on_after(grace), contextlib.suppress(ConnectionFailed):
                    await running.wait()

    async def kill(self, pid: int) -> None:
        """SIGKILL for a process there, and for its group where it leads one."""
        words = ["sh", "-c", f"kill -KILL -{pid} 2>/dev/null || kill -KILL {pid}"]
        async with self.channel(lambda: self._start(quoted(words))) as process:
            with self.errors():
                await process.wait_closed()

    async def _start(self, command: str) -> SSHClientProcess[bytes]:
        return await self.connection.create_process(
            command, encoding=None, request_pty=False, term_type=None, send_env=None, env=None
        )  # pyright: ignore[reportReturnType]  encoding=None makes it one of bytes

    @asynccontextmanager
    async def channel(self, start: Callable[[], Awaitable[T]]) -> AsyncGenerator[T]:
        """Open a session, waiting for one of our own to end where the server allows no more.

        Raises ConnectionFailed when none is free in time.
        """
        from asyncssh import ChannelOpenError

        opened: T | None = None
        pause, alone = _AGAIN, 0.0
        with self.errors(), anyio.move_on_after(self.limits.sessions):
            while opened is None:
                freed = self._freed
                self._open += 1
                try:
                    # Given up half-way it would stay open there, and what it runs with it.
                    with anyio.fail_after(_START, shield=True):
                        opened = await start()
                except ChannelOpenError as exc:
                    self._open -= 1
                    if self.lost:
                        raise
                    if not self._open and alone >= self._lingers:
                        raise ConnectionFailed(
                            f"{self.machine} refuses to run a command: {exc.reason}",
                            action="See what its sshd says; MaxSessions 0 lets no command run.",
                        ) from exc
                    alone = 0.0 if self._open else alone + pause
                    with anyio.move_on_after(pause):
                        await freed.wait()
                    pause = min(1.0, 2 * pause)
                except TimeoutError as exc:
                    self._open -= 1
                    raise ConnectionFailed(
                        f"{self.machine} did not say within {_START:g} s whether a command may run",
                        action="Try again when that machine, or the way to it, is less busy.",
                    ) from exc
                except BaseException:
                    self._open -= 1
                    raise
        if opened is None:
            raise ConnectionFailed(
                f"{self.machine} allows no more than {self._open} sessions at once, and none "
                f"became free within {self.limits.sessions:g} s",
                action="Raise MaxSessions in its sshd_config (10 is usual).",
            )
        self._lingers = _LINGERS
        try:
            yield opened
        finally:
            self._open -= 1
            self._freed.set()
            self._freed = anyio.Event()

    def gone(self) -> ConnectionFailed:
        """The error for work that the loss of the link ended."""
        why = self.line.why[0] if self.line.why else "the connection was closed"
        return ConnectionFailed(f"the link to {self.machine} is lost: {why}")

    @contextlib.contextmanager
    def errors(self) -> Generator[None]:
        """asyncssh's errors and those of the socket as ConnectionFailed."""
        from asyncssh import Error

        from rbee.ssh.login import reason_of

        try:
            yield
        except (Error, ConnectionError, TimeoutError) as exc:
            if self.lost:
                raise self.gone() from exc
            raise ConnectionFailed(f"{self.machine}: {reason_of(exc)}") from exc


def quoted(argv: Sequence[str]) -> str:
    """One line for the login shell there, in which every word stands for itself.

    Raises ValidationFailed for no words, a NUL, or a command that a shell would take for an
    assignment.
    """
    if not argv or not argv[0] or any("\0" in word for word in argv) or _BARE.match(argv[0]):
        raise ValidationFailed(
            "a command needs a name, and no word of it may hold a NUL",
            field="command",
            constraint="words without NUL",
        )
    return shlex.join(argv)


async def connect(
    machine: Machine,
    known: KnownHosts,
    limits: Limits = DEFAULTS,
    *,
    tell: Callable[[int, int], None] = lambda _attempt, _tries: None,
) -> Session:
    """Connect with all tries. The caller closes it. `tell` hears of each try, and of how many.

    Raises HostKeyUnknown, HostKeyChanged, HostKeyRevoked and LoginRefused at once, and
    ConnectionTimeout or ConnectionFailed after the last try (`details.attempts`, `.reasons`).
    """
    from rbee.ssh.login import Refused, log_in

    began = anyio.current_time()
    failed: list[RbeeError] = []
    for attempt in range(1, limits.tries + 1):
        if attempt > 1:
            await anyio.sleep(limits.pause_before(attempt))
        tell(attempt, limits.tries)
        try:
            return Session(machine, attempt, await log_in(machine, known, limits), limits)
        except Refused as refused:
            error = refused.error
            error.details["attempts"] = attempt
            if not refused.again:
                raise error from refused
            failed.append(error)
    raise _given_up(machine, failed, anyio.current_time() - began)


def _given_up(machine: Machine, failed: list[RbeeError], took: float) -> RbeeError:
    kind = ConnectionTimeout if isinstance(failed[-1], ConnectionTimeout) else ConnectionFailed
    tries = "1 try" if len(failed) == 1 else f"{len(failed)} tries"
    return kind(
        f"no SSH connection to {machine} after {tries} in {took:.1f} s: {failed[-1].message}",
        action=f"Check that it is on and reachable: ssh -p {machine.port} "
        f"{machine.user}@{machine.host}",
        attempts=len(failed),
        reasons=[error.message for error in failed],
    )


@asynccontextmanager
async def opened(
    machine: Machine,
    known: KnownHosts,
    limits: Limits = DEFAULTS,
    *,
    tell: Callable[[int, int], None] = lambda _attempt, _tries: None,
) -> AsyncGenerator[Session]:
    """A session for the length of a block. `tell`: see `connect`."""
    session = await connect(machine, known, limits, tell=tell)
    try:
        yield session
    finally:
        with anyio.CancelScope(shield=True):
            await session.aclose()
