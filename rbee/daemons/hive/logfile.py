"""The lines of a log file, and those that come.

Owns reading a file that grows, is cut or is set aside, in bounded pieces and lines. It never keeps
a file whole in memory, and never waits on the event loop.
"""

from __future__ import annotations

import os
import select
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.to_thread

from rbee.errors import NotFound, ValidationFailed
from rbee.protocol.base import encode
from rbee.sse import DONE, encode_comment, encode_event

LINES = 2000
"""So many can be asked for."""
LINE_BYTES = 4096
"""Of a longer line the rest is not told, only how much it is."""
FIRST_BYTES = 1 << 20
"""So far from the end the first lines are looked for."""
BLOCK = 256 << 10
POLL = 0.25
"""Seconds between looks at a file that is followed."""
ALIVE = 15.0
"""Seconds of silence after which a reader is told that the stream still lives."""


def line_count(text: str | None, *, default: int = 200) -> int:
    """How many lines are asked for. Raises ValidationFailed."""
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= LINES:
        raise ValidationFailed(f"lines: 1 to {LINES}", field="lines", constraint=f"1..{LINES}")
    return int(text)


class LogFile:
    """One file, read on from where the last call stopped. Calls block; one at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""
        self._cut = 0

    def __enter__(self) -> LogFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def last(self, lines: int) -> list[str]:
        """The last whole lines it has now. Raises NotFound."""
        if not self._open():
            raise NotFound(f"no log {self._path.name}", action="Nothing has been written yet.")
        assert self._file is not None
        start = max(0, self._file.seek(0, os.SEEK_END) - FIRST_BYTES)
        self._file.seek(start)
        data = self._file.read(FIRST_BYTES)
        if start:
            data = data.partition(b"\n")[2]
        return self._split(data)[-lines:]

    def more(self) -> tuple[list[str], bool]:
        """Whole lines that have come since, at most BLOCK bytes of them; and whether the file is
        still there."""
        if self._file is None and not self._open():
            return [], False
        assert self._file is not None
        mine = os.fstat(self._file.fileno())
        if mine.st_size < self._file.tell():
            self._file.seek(0)
            self._rest, self._cut = b"", 0
        data = self._file.read(BLOCK)
        if data:
            return self._split(data), True
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return [], False
        if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
            return [], True
        rest = self.rest()
        self.close()
        return rest, self._open()

    def rest(self) -> list[str]:
        """The line at the end that has no end yet, if there is one."""
        return [self._whole(b"")] if self._rest else []

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> bool:
        self.close()
        try:
            self._file = self._path.open("rb", buffering=0)
        except FileNotFoundError:
            return False
        return True

    def _split(self, data: bytes) -> list[str]:
        *whole, rest = data.split(b"\n")
        out = [self._whole(part) for part in whole]
        self._add(rest)
        return out

    def _add(self, part: bytes) -> None:
        room = LINE_BYTES - len(self._rest)
        self._rest += part[:room]
        self._cut += max(0, len(part) - room)

    def _whole(self, part: bytes) -> str:
        self._add(part)
        text = self._rest.rstrip(b"\r").decode("utf-8", "replace")
        if self._cut:
            text += f" … ({self._cut} more bytes)"
        self._rest, self._cut = b"", 0
        return text


async def events(path: Path, *, lines: int, ended: Callable[[], bool]) -> AsyncGenerator[bytes]:
    """`data: {"line": …}` of the last lines and all that come, then `[DONE]`.

    Until `ended` and all is told, or the file is gone.
    """
    with LogFile(path) as log:
        with suppress(NotFound):
            if begun := await anyio.to_thread.run_sync(log.last, lines):
                yield _told(begun)
        quiet, there = 0.0, True
        while there:
            over = ended()
            fresh, there = await anyio.to_thread.run_sync(log.more)
            if fresh:
                yield _told(fresh)
                quiet = 0.0
            elif over:
                break
            elif there:
                await anyio.sleep(POLL)
                quiet += POLL
            if quiet >= ALIVE:
                yield encode_comment("nothing new")
                quiet = 0.0
        yield _told(log.rest()) + DONE


def copy_out(path: Path, *, lines: int, follow: bool, out: int) -> None:
    """Write the last lines to a descriptor, and with `follow` all that come, until its reader is
    gone. Blocks. Raises NotFound, BrokenPipeError."""
    reader = select.poll()
    reader.register(out, 0)  # without events it tells only of its reader's end
    with LogFile(path) as log:
        _write(out, log.last(lines))
        there = follow
        while there:
            fresh, there = log.more()
            _write(out, fresh)
            if not fresh and reader.poll(POLL * 1000):
                return
        _write(out, log.rest())


def _told(lines: list[str]) -> bytes:
    return b"".join(encode_event(encode({"line": line})) for line in lines)


def _write(out: int, lines: list[str]) -> None:
    data = memoryview("".join(f"{line}\n" for line in lines).encode())
    while data:
        data = data[os.write(out, data) :]
