"""What may be cleared away from the models folder: begun transfers, models beyond the quota.

Owns the choice and the removal. A model goes only when nobody uses it, nobody wants it kept and its
files are ours; a file that belongs to nothing is told of, never removed. Blocks.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from rbee.errors import Forbidden
from rbee.models import shelf
from rbee.models.catalogue import Row
from rbee.models.importing import IMPORTING
from rbee.models.transfer_names import PARTIAL

log = logging.getLogger("rbee.models")
MAX_ORPHANS = 200
IMPORT_LIMIT = 3600.0
"""Seconds after which a begun import is taken for one whose process has died."""
_MAX_FILES = 20_000


class Partial(NamedTuple):
    """A begun transfer; `size` in bytes."""

    path: Path
    size: int


def weight(row: Row) -> int:
    """Bytes of the disk that removing the model would free: a file that another program has a link
    to frees nothing, and one that is not ours is not removed."""
    if row.entry.linked:
        return 0
    total = 0
    for file in row.entry.files:
        try:
            status = shelf.where(row.entry, file.name).stat()
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
            out.append(Partial(path, sum(size for _, size in _files(path))))
    return out


def clear(partial: Partial) -> int:
    """Remove a begun transfer; bytes freed."""
    shutil.rmtree(partial.path, ignore_errors=True)
    return 0 if partial.path.exists() else partial.size


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


def _held(folder: Path) -> bool:
    """Whether a process holds the lock of the folder's transfer."""
    try:
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


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
