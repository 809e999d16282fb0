"""What may be cleared away from the models folder: begun transfers, models beyond the quota.

Owns the choice and the removal. A model goes only when nobody uses it, nobody wants it kept and its
files are ours; a file that belongs to nothing is told of, never removed. Blocks.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Collection, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rbee.errors import Forbidden, ValidationFailed
from rbee.models import shelf
from rbee.models.catalogue import Row
from rbee.models.importing import IMPORTING
from rbee.models.transfer_names import PARTIAL
from rbee.models.transfer_partial import discard
from rbee.protocol.base import Wire, decode

log = logging.getLogger("rbee.models")
MAX_ORPHANS = 200
IMPORT_LIMIT = 3600.0
"""Seconds after which a begun import is taken for one whose process has died."""
_MAX_FILES = 20_000
_MAX_NOTE = 4 << 20


class _Note(Wire, frozen=True):
    model_id: str = ""


class Partial(NamedTuple):
    """A begun transfer; `size` in bytes, `name` the model's as far as it can be read."""

    path: Path
    size: int
    name: str


def weight(row: Row, models: Path) -> int:
    """Bytes of the disk that removing the model would free: a file that another program has a link
    to frees nothing, and one that is not ours, or not in the models folder, is not removed."""
    if row.entry.linked:
        return 0
    root, total = models.resolve(), 0
    for file in row.entry.files:
        path = shelf.where(row.entry, file.name)
        try:
            if not path.parent.resolve().is_relative_to(root):
                continue
            status = path.stat()
        except OSError:
            continue
        if status.st_nlink == 1:
            total += status.st_size
    return total


def to_go(
    rows: Iterable[tuple[Row, int]], *, quota: int, need: int, kept: Collection[str]
) -> list[Row]:
    """Models that must go so that `need` more bytes stay within the quota, the least recently used
    first; as many as there are when that is not enough. `rows` come with their weights, `kept` are
    ids that stay."""
    rows = list(rows)
    over = sum(size for _, size in rows) + need - quota
    out: list[Row] = []
    for row, size in sorted(rows, key=lambda one: (_last_used(one[0]), one[0].entry.id)):
        if over <= 0:
            break
        if size > 0 and row.entry.id not in kept:
            out.append(row)
            over -= size
    return out


def _last_used(row: Row) -> float:
    return max(row.entry.used_at or 0.0, row.entry.downloaded_at or 0.0)


def remove(row: Row, models: Path) -> int:
    """Take a model's files off the disk, and the folders that are empty then; bytes freed. Files
    that are not ours, or do not lie in the models folder, are left alone. Raises Forbidden."""
    if row.entry.linked:
        return 0
    root, freed = models.resolve(), 0
    for file in row.entry.files:
        path = shelf.where(row.entry, file.name)
        try:
            if not path.parent.resolve().is_relative_to(root):
                log.warning("%s is not in %s and left alone", path, root)
                continue
            status = path.lstat()
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise Forbidden(
                f"{path} cannot be removed: {exc.strerror}",
                action="Check the rights of the models folder.",
            ) from exc
        freed += status.st_size if status.st_nlink == 1 else 0
        _remove_empty(path.parent, root)
    return freed


def _remove_empty(folder: Path, root: Path) -> None:
    while folder.resolve() != root:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def partials(models: Path, active: Collection[str]) -> list[Partial]:
    """Begun transfers that nobody works on: none of `active`, and not locked by another process."""
    out: list[Partial] = []
    try:
        found = sorted(os.scandir(models / PARTIAL), key=lambda entry: entry.name)
    except OSError:
        return out
    for entry in found:
        path = Path(entry.path)
        idle = entry.name not in active and not _held(path) and not _young_import(entry)
        if idle and entry.is_dir(follow_symlinks=False):
            out.append(Partial(path, sum(size for _, size in _files(path)), _wanted(path)))
    return out


def _wanted(folder: Path) -> str:
    """What was to be fetched, else the folder's name."""
    try:
        with (folder / "order.json").open("rb") as note:
            return decode(note.read(_MAX_NOTE), _Note).model_id or folder.name
    except (OSError, ValidationFailed):
        return folder.name


def clear(partial: Partial) -> int:
    """Remove a begun transfer, unless somebody works on it by now; bytes freed."""
    with _alone(partial.path) as alone:
        return partial.size if alone and discard(partial.path) else 0


def orphans(models: Path, rows: Iterable[Row]) -> list[str]:
    """Files in the models folder that no row has, at most MAX_ORPHANS."""
    known = {str(shelf.where(r.entry, f.name)) for r in rows for f in r.entry.files}
    out = [str(path) for path, _ in _files(models) if str(path) not in known]
    return sorted(out)[:MAX_ORPHANS]


def _young_import(entry: os.DirEntry[str]) -> bool:
    """Whether another process may be at it: an import holds no lock."""
    try:
        young = time.time() - entry.stat(follow_symlinks=False).st_mtime < IMPORT_LIMIT
    except OSError:
        return False
    return young and entry.name.startswith(IMPORTING)


@contextmanager
def _alone(folder: Path) -> Generator[bool]:
    """Whether no process works on the folder's transfer; none begins to meanwhile."""
    try:
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield True
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except OSError:
        alone = False
    try:
        yield alone
    finally:
        os.close(fd)


def _held(folder: Path) -> bool:
    with _alone(folder) as alone:
        return not alone


def _files(folder: Path) -> list[tuple[Path, int]]:
    """Files under a folder with their sizes; of the models folder, those that are whole."""
    out: list[tuple[Path, int]] = []
    for at, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != PARTIAL)
        for name in sorted(names):
            path = Path(at, name)
            try:
                status = path.lstat()
            except OSError:
                continue
            out.append((path, status.st_size if status.st_nlink == 1 else 0))
            if len(out) >= _MAX_FILES:
                return out
    return out
