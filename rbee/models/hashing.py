"""The two hashes the hub names files by: SHA-256, and git's SHA-1 of a blob.

Owns computing them piece by piece. Blocks: for worker threads; hashlib lets other threads run
meanwhile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEP = 1 << 20


class Hasher:
    """Of the bytes given so far. `git_size`: also git's SHA-1 of a file that will have that size.

    git hashes `blob SIZE\\0` before the content: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
    """

    def __init__(self, git_size: int | None = None) -> None:
        self._sha256 = hashlib.sha256()
        self._git: Any = None
        if git_size is not None:
            self._git = hashlib.sha1(b"blob %d\0" % git_size, usedforsecurity=False)

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._sha256.update(data)
        if self._git is not None:
            self._git.update(data)

    @property
    def sha256(self) -> str:
        """Hex."""
        return self._sha256.hexdigest()

    @property
    def git_sha1(self) -> str | None:
        """Hex; None where it was not asked for."""
        return None if self._git is None else self._git.hexdigest()


def sha256_of(path: Path, tell: Callable[[int], None] | None = None) -> str:
    """Hex of a whole file; `tell` hears how many bytes have been read. Raises OSError."""
    hasher, done = Hasher(), 0
    buffer = bytearray(STEP)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(view[:count])
            done += count
            if tell is not None:
                tell(done)
    return hasher.sha256
