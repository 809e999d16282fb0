"""The numbers of workers, counted on from queen to queen.

Owns the file that says from where the next queen counts. It is written ahead in blocks, so that a
queen that is killed leaves none behind that a hive may have heard. Knows no worker.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import anyio
import anyio.to_thread

log = logging.getLogger("rbee.queen")
BLOCK = 100
"""Numbers that one write sets aside."""


class Numbers:
    """`first`: where this queen begins; no earlier one gave that number or a higher one to a hive.

    A file that cannot be read or written costs that promise and nothing else; it is logged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.first = self._read()
        self._kept = self.first
        self._lock = anyio.Lock()

    async def cover(self, number: int) -> None:
        """Return when a queen that comes after this one will not give that number again."""
        if number < self._kept:
            return
        async with self._lock:
            if number >= self._kept:
                kept = number + BLOCK
                await anyio.to_thread.run_sync(self._write, kept)
                self._kept = kept

    def close(self, following: int) -> None:
        """The queen has ended in good order: `following` is the first number she did not use."""
        if following != self._kept:
            self._write(following)

    def _read(self) -> int:
        try:
            return max(1, int(self._path.read_text("ascii")[:20]))
        except FileNotFoundError:
            return 1
        except (OSError, ValueError) as exc:
            log.warning("%s cannot be read, workers are counted from 1: %s", self._path, exc)
            return 1

    def _write(self, kept: int) -> None:
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        try:
            fd = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "w", encoding="ascii") as file:
                file.write(f"{kept}\n")
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
        except OSError as exc:
            log.warning("%s cannot be written: %s", self._path, exc)
