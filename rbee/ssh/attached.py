"""A command that runs on another machine, held by its stdin; and output that is kept within bounds.

Owns reading and writing of one running command. Never starts one: that is `session`'s.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from rbee.errors import ConnectionFailed, PayloadTooLarge
from rbee.ssh.groups import task_group

if TYPE_CHECKING:
    from asyncssh import SSHClientProcess, SSHReader

    from rbee.ssh.session import Session

PIECE = 1 << 16
NOISE = 1 << 16
"""So much may a login shell print before the command begins."""
SIGNAL_LIMIT, KILL_LIMIT = 0.5, 5.0


class Kept(bytearray):
    """What was written, at most `limit` bytes: the first ones, or with `tail` the last ones."""

    def __init__(self, limit: int, tail: bool) -> None:
        super().__init__()
        self.limit = limit
        self.tail = tail
        self.overrun = False
        """More was written than may be kept (never with `tail`)."""

    def take(self, data: bytes) -> None:
        """Add the next bytes."""
        self += data
        if len(self) > self.limit:
            if self.tail:
                del self[: len(self) - self.limit]
            else:
                del self[self.limit :]
                self.overrun = True


@dataclass
class _Marked:
    """One output of a command, without what the login shell's own files print before it."""

    reader: SSHReader[bytes]
    mark: bytes
    pid: int | None = None
    passed: bool = False
    """The mark has come, or will not come any more."""
    _noise: bytes = b""

    async def read(self) -> bytes:
        """The next bytes; empty at the end. Everything, where the mark never comes."""
        while not self.passed:
            data = await self.reader.read(PIECE)
            self._noise += data
            if found := re.search(self.mark + rb":([0-9]{1,10})\n", self._noise):
                self.pid, self.passed = int(found[1]), True
                if rest := self._noise[found.end() :]:
                    return rest
            elif not data or len(self._noise) > NOISE:
                self.passed = True
                return self._noise
        return await self.reader.read(PIECE)


@dataclass
class Attached:
    """One running command. stderr is kept (its last 64 KiB) and can be looked at at any time."""

    _process: SSHClientProcess[bytes]
    _session: Session
    _out: _Marked
    _err: _Marked
    stderr: Kept
    _rest: bytearray = field(default_factory=bytearray)
    _drained: anyio.Event = field(default_factory=anyio.Event)

    @staticmethod
    def wrapped(argv: Sequence[str]) -> tuple[list[str], bytes]:
        """The command with a mark before its output, and the mark.

        The mark tells the process's number, which is needed to end it: not every server passes
        signals on (OpenSSH does not for root), and none ends a command whose channel is closed.
        """
        mark = f"rbee-{secrets.token_hex(8)}"
        program = f'echo "{mark}:$$"; echo "{mark}:$$" >&2; exec "$@"'
        return ["sh", "-c", program, "sh", *argv], mark.encode()

    @staticmethod
    @asynccontextmanager
    async def of(
        process: SSHClientProcess[bytes], session: Session, mark: bytes, stderr: Kept
    ) -> AsyncGenerator[Attached]:
        """For the length of a block, with stderr being read meanwhile; ended after it."""
        out, err = _Marked(process.stdout, mark), _Marked(process.stderr, mark)
        attached = Attached(process, session, out, err, stderr)
        async with task_group() as tasks:
            tasks.start_soon(attached._watch)
            try:
                yield attached
            finally:
                with anyio.CancelScope(shield=True):
                    await attached._end()
                tasks.cancel_scope.cancel()

    async def send(self, data: bytes) -> None:
        """Write to its stdin; waits while it does not read. Raises ConnectionFailed when gone."""
        with self._session.errors():
            self._process.stdin.write(data)
            await self._process.stdin.drain()

    def close_input(self) -> None:
        """Its stdin ends: nothing more will come."""
        with contextlib.suppress(OSError):
            if not self._process.stdin.is_closing():
                self._process.stdin.write_eof()

    async def receive(self, most: int = PIECE) -> bytes:
        """The next bytes of its stdout; empty at the end. Raises ConnectionFailed."""
        if self._rest:
            data = bytes(self._rest[:most])
            del self._rest[:most]
            return data
        with self._session.errors():
            data = await self._out.read()
        if len(data) > most:
            self._rest += data[most:]
        return data[:most]

    async def read_line(self, limit: int = 1 << 20) -> bytes:
        """The next line with its newline; empty at the end. Raises PayloadTooLarge."""
        while (end := self._rest.find(b"\n")) < 0:
            if len(self._rest) > limit:
                raise PayloadTooLarge(
                    f"{self._session.machine} sent a line of more than {limit} bytes", limit=limit
                )
            with self._session.errors():
                data = await self._out.read()
            if not data:
                end = len(self._rest) - 1
                break
            self._rest += data
        line = bytes(self._rest[: end + 1])
        del self._rest[: end + 1]
        return line

    async def wait(self) -> int:
        """Its exit status, negative for a signal. Raises ConnectionFailed when the link is lost."""
        with self._session.errors():
            await self._process.wait_closed()
            await self._drained.wait()
        status = self._process.returncode
        if status is None:
            raise self._session.gone()
        return status

    async def feed(self, stdin: bytes, out: Kept) -> int | None:
        """Give it all its input, keep its output, wait for its end. None: too much output."""
        async with task_group() as tasks:
            tasks.start_soon(self._fill, stdin)
            with self._session.errors():
                await self._drain(self._out, out)
            tasks.cancel_scope.cancel()
        return None if out.overrun or self.stderr.overrun else await self.wait()

    async def _fill(self, stdin: bytes) -> None:
        with contextlib.suppress(ConnectionFailed):  # it may end without having read its input
            for start in range(0, len(stdin), PIECE):
                await self.send(stdin[start : start + PIECE])
            self.close_input()

    async def _watch(self) -> None:
        with contextlib.suppress(ConnectionFailed), self._session.errors():
            await self._drain(self._err, self.stderr)
        self._drained.set()

    async def _drain(self, reader: _Marked, kept: Kept) -> None:
        while data := await reader.read():
            if not kept.overrun:
                kept.take(data)
                if kept.overrun:  # and read on: a full window would keep the end from coming
                    self._process.close()

    @property
    def _ended(self) -> bool:
        return self._process.exit_status is not None or self._process.exit_signal is not None

    async def _end(self) -> None:
        """SIGKILL for what still runs: by the server, else by a command of its own."""
        if not self._ended and not self._session.lost:
            with contextlib.suppress(OSError):
                self._process.send_signal("KILL")
                with anyio.move_on_after(SIGNAL_LIMIT):
                    await self._process.wait_closed()
        if not self._ended and self._err.pid is None and not self._session.lost:
            # Nobody knows whom to kill before the mark, and a busy machine may begin only now.
            limit, lost = anyio.move_on_after(KILL_LIMIT), contextlib.suppress(ConnectionFailed)
            with limit, lost, self._session.errors():
                while not self._out.passed:
                    await self._out.read()
        self._process.close()
        pid = self._out.pid or self._err.pid
        if not self._ended and pid is not None:
            with anyio.move_on_after(KILL_LIMIT), contextlib.suppress(ConnectionFailed):
                await self._session.kill(pid)
