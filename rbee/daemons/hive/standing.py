"""A hive that stands by itself: where it says that it runs, and whether that is so.

Owns the file `hive-NAME.json` (0600: it has the hive's token) and the names beside it. A process is
taken for the hive only when it carries the mark of that file on its command line, so that no
other one is ever signalled in its place.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rbee.daemons.detached import alive
from rbee.errors import RbeeError
from rbee.protocol.base import builtins, convert, decode, encode
from rbee.protocol.hives import HiveUp

if TYPE_CHECKING:
    from rbee.paths import Paths


class Entry(HiveUp, frozen=True, kw_only=True):
    """What the file says."""

    mark: str
    """Of this start, on the process's command line."""

    def shown(self) -> HiveUp:
        """What whoever may reach it is told."""
        return convert(builtins(self), HiveUp)

    def is_alive(self) -> bool:
        """Whether the very process still exists, stopped or not."""
        if not alive(self.pid):
            return False
        import psutil  # 15 ms

        try:
            return self.mark in psutil.Process(self.pid).cmdline()
        except psutil.Error:
            return False


def state_of(paths: Paths, name: str) -> Path:
    """The file."""
    return paths.state / f"hive-{name}.json"


def lock_of(paths: Paths, name: str) -> Path:
    """Held by the hive of that name while it lives, whoever started it."""
    return paths.state / f"hive-{name}.lock"


def log_of(paths: Paths, name: str) -> Path:
    """What it says."""
    return paths.state / f"hive-{name}.log"


def tree_of(paths: Paths, name: str) -> str:
    """How the marks of its workers' processes begin (`process.TREE`)."""
    return f"{name}@{paths.state}:"


def read(paths: Paths, name: str) -> Entry | None:
    """What the file says; None when there is none or it is not sound. The hive may be dead."""
    try:
        return decode(state_of(paths, name).read_bytes(), Entry)
    except (OSError, RbeeError, msgspec.MsgspecError):
        return None


def write(paths: Paths, entry: Entry) -> None:
    """Replace the file in one step."""
    place = state_of(paths, entry.name)
    fresh = place.with_suffix(f".{os.getpid()}.tmp")
    fd = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(encode(entry))
    fresh.replace(place)


def remove(paths: Paths, name: str, mark: str | None = None) -> None:
    """Remove the file; with `mark` only if it is of that start."""
    entry = read(paths, name)
    if mark is None or (entry is not None and entry.mark == mark):
        with contextlib.suppress(FileNotFoundError):
            state_of(paths, name).unlink()
