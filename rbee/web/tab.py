"""One tab: the screens in a process of their own, under a guard, and the stream to it.

Owns the process from start to end and the packets of Textual's web driver (a letter, four bytes of
size with the highest first, the payload; one line before the first). Never reads what the screens
show. The guard ends the process when the server is gone, by whatever death.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from rbee.daemons.process import GuardedProcess, clean_environment, start_guarded
from rbee.errors import BadGateway, TimedOut

READY = b"__GANGLION__\n"
START_LIMIT, SEND_LIMIT, QUIT_LIMIT, END_LIMIT = 60.0, 30.0, 2.0, 8.0
PACKET_LIMIT = 16 << 20
WIDEST, HIGHEST = 500, 200
_PASSED = frozenset({"NO_COLOR", "TEXTUAL_ANIMATIONS"})


class Tab:
    """Made by `start_tab`; `end` it."""

    def __init__(
        self,
        process: GuardedProcess,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.process = process
        self._reader = reader
        self._writer = writer
        self._begun = False

    async def read(self) -> tuple[bytes, bytes] | None:
        """The next packet's letter (D: for the terminal, M: about it) and payload; None: no more.

        Raises TimedOut when nothing is drawn for long, BadGateway when what comes is no packet.
        """
        try:
            if not self._begun:
                with anyio.fail_after(START_LIMIT):
                    await self._reader.readuntil(READY)
                self._begun = True
            head = await self._reader.readexactly(5)
            size = int.from_bytes(head[1:], "big")
            if head[:1] not in (b"D", b"M", b"P") or size > PACKET_LIMIT:
                raise BadGateway("the screen said something that is no packet")
            return head[:1], await self._reader.readexactly(size)
        except TimeoutError as exc:
            raise TimedOut(f"the screen did not open within {START_LIMIT:g} s") from exc
        except asyncio.LimitOverrunError as exc:
            raise BadGateway("the screen said something that is no packet") from exc
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def type(self, text: str) -> None:
        """What was typed or pasted."""
        await self._send(b"D", text.encode("utf-8", "replace"))

    async def tell(self, **words: str | int) -> None:
        """About the terminal: `type` is resize (with width, height), focus, blur or quit."""
        await self._send(b"M", json.dumps(words).encode())

    async def end(self) -> None:
        """Have it quit; returns when the process and all it started are gone."""
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(QUIT_LIMIT):
                await self.tell(type="quit")
                await self.process.wait()
            self._writer.close()
            await _end(self.process)
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()

    async def _send(self, letter: bytes, payload: bytes) -> None:
        # A screen that has gone is noticed where it is read from.
        with contextlib.suppress(ConnectionError):
            self._writer.write(letter + len(payload).to_bytes(4, "big") + payload)
            with anyio.fail_after(SEND_LIMIT):
                await self._writer.drain()


async def start_tab(
    command: Callable[[int], Sequence[str]], *, log_path: Path, width: int, height: int
) -> Tab:
    """Start one. `command`: the command line for a descriptor, which is both its stdin and its
    stdout; what it writes to stderr goes to the file, which begins anew."""
    process: GuardedProcess | None = None
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            await anyio.to_thread.run_sync(lambda: log_path.unlink(missing_ok=True))
            process = await start_guarded(
                command(theirs.fileno()),
                log_path=log_path,
                env=tab_environment(width, height),
                pass_fds=[theirs.fileno()],
            )
        return Tab(process, *await asyncio.open_connection(sock=ours))
    except BaseException:
        ours.close()
        if process is not None:
            await _end(process)
        raise


async def _end(process: GuardedProcess) -> None:
    with anyio.move_on_after(END_LIMIT, shield=True) as scope:
        await process.release()
    if scope.cancelled_caught:
        process.kill()


def tab_environment(width: int, height: int) -> dict[str, str]:
    """What the screens need to know: the user's settings of rbee, and what the terminal is."""
    own = {k: v for k, v in os.environ.items() if k.startswith("RBEE_") or k in _PASSED}
    return clean_environment(
        own
        | {
            "TEXTUAL_DRIVER": "textual.drivers.web_driver:WebDriver",
            "TEXTUAL_COLOR_SYSTEM": "truecolor",
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
            "COLUMNS": str(width),
            "ROWS": str(height),
        }
    )


def cells(value: object, most: int, default: int) -> int:
    """A width or height in cells that a browser named, within what a screen can be."""
    try:
        return max(2, min(most, int(value)))  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return default
