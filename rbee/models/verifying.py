"""Reads a model's files again and compares them with what they should be.

Owns the comparison; changes nothing. Blocks for as long as the disk takes: for worker threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rbee.errors import Cancelled, RbeeError
from rbee.models import reading, shelf
from rbee.models.hashing import sha256_of
from rbee.protocol.models import CatalogueEntry, CatalogueFile

Report = Callable[[int, int, str], None]
"""`report(done, total, file)`: bytes."""


class Outcome(NamedTuple):
    """`hashed`: how many files had a hash to compare with; `found`: of the others by name."""

    bytes: int
    hashed: int
    problems: list[str]
    found: dict[str, str]


def verify(entry: CatalogueEntry, report: Report, stop: threading.Event) -> Outcome:
    """Look at every file of an entry, and at the header. Raises Cancelled when `stop` is set."""
    total, done, hashed = sum(file.size for file in entry.files), 0, 0
    problems: list[str] = []
    found: dict[str, str] = {}
    for file in entry.files:
        path = shelf.where(entry, file.name)
        start = done

        def tell(count: int, start: int = start, name: str = file.name) -> None:
            if stop.is_set():
                raise Cancelled(f"the check of {entry.id} was cancelled")
            report(start + count, total, name)

        tell(0)
        problem = _checked(path, file, tell, found)
        hashed += file.sha256 is not None
        if problem:
            problems.append(problem)
        done += file.size
    report(done, total, "")
    if not problems:
        try:
            reading.look(Path(entry.path))
        except RbeeError as exc:
            problems.append(exc.message)
        except OSError as exc:
            problems.append(f"{entry.path} cannot be read: {exc.strerror}")
    return Outcome(done, hashed, problems, found)


def _checked(
    path: Path, file: CatalogueFile, tell: Callable[[int], None], new: dict[str, str]
) -> str:
    """What is wrong with a file; empty: nothing is. A hash that was not known goes into `new`."""
    try:
        size = path.stat().st_size
        if size != file.size:
            return f"{file.name} has {size} bytes, it should have {file.size}"
        found = sha256_of(path, tell)
    except OSError as exc:
        return f"{file.name} cannot be read: {exc.strerror}"
    if file.sha256 is None:
        new[file.name] = found
    elif found != file.sha256:
        return f"{file.name} has the SHA-256 {found}, it should have {file.sha256}"
    return ""
