"""The state file: where the running queen is. Written by her, read by her user's commands."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rbee.errors import RbeeError
from rbee.protocol.base import Wire, decode, encode

if TYPE_CHECKING:
    from rbee.paths import Paths

DETACH = b"detach\n"
"""What an owner writes into a queen's lifeline before closing it, to leave her running."""


class QueenState(Wire, frozen=True, kw_only=True):
    """One running queen. `token` is for her own hives and workers; the file's mode is 0600. `born`:
    when her process began, see rbee.access.ours."""

    url: str
    pid: int
    version: str
    lifetime: str
    started_at: float
    token: str
    born: str = ""


def read_state(paths: Paths) -> QueenState | None:
    """What the file says; None when there is none or it is not sound. The queen may be dead."""
    try:
        return decode(paths.state_file.read_bytes(), QueenState)
    except (OSError, RbeeError, msgspec.MsgspecError):
        return None


def write_state(paths: Paths, state: QueenState) -> None:
    """Replace the file in one step."""
    fresh = paths.state_file.with_suffix(f".{os.getpid()}.tmp")
    fd = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(encode(state))
    fresh.replace(paths.state_file)


@contextlib.contextmanager
def locked(path: Path) -> Generator[bool]:
    """Hold a lock file while the block runs; False when another process holds it.

    The lock goes with the process, whatever its death; the file stays.
    """
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def remove_state(paths: Paths, pid: int) -> None:
    """Remove the file if it is about process `pid`."""
    state = read_state(paths)
    if state is not None and state.pid == pid:
        with contextlib.suppress(FileNotFoundError):
            paths.state_file.unlink()
