"""Takes a model over that lies on this machine already.

Owns how: a hard link where the disk allows it, else a reference, a copy only when it was asked for.
Never changes or removes the original. Blocks: for worker threads.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rbee.errors import (
    Cancelled,
    Conflict,
    Forbidden,
    InsufficientDisk,
    ModelNotFound,
    ValidationFailed,
)
from rbee.models import foreign, shelf
from rbee.models.hashing import STEP, Hasher
from rbee.models.transfer_names import PARTIAL
from rbee.protocol.models import CatalogueFile, ImportBody

FOLDER, IMPORTING = "imported", "import-"
"""In the models folder, and what the names of begun ones start with."""
MARGIN = 256 << 20
"""Bytes of the disk that a copy leaves free."""
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:/@+ -]{0,126}[A-Za-z0-9._+-])?")
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
_MAX_PATH = 4096
Report = Callable[[int, int, str], None]
"""`report(done, total, file)`: bytes."""


class Taken(NamedTuple):
    """Where it lies now; `linked`: at its old place, which is not ours."""

    path: Path
    files: list[CatalogueFile]
    linked: bool


def checked(body: ImportBody) -> Path:
    """The path that is asked for. Raises ValidationFailed, ModelNotFound."""
    text = body.path
    if not text.isprintable() or len(text) > _MAX_PATH or not text.startswith("/"):
        raise ValidationFailed(
            f"path: {text[:80]!r} is not an absolute path", field="path", constraint="absolute path"
        )
    if body.name is not None and (_NAME.fullmatch(body.name) is None or ".." in body.name):
        raise ValidationFailed(
            f"name: {body.name[:80]!r} cannot be a model's name",
            field="name",
            constraint=_NAME.pattern,
        )
    path = Path(os.path.normpath(text))
    try:
        path.stat()
    except OSError as exc:
        raise ModelNotFound(
            f"there is no model at {path}: {exc.strerror}",
            action="Check the path on the machine whose hive is to have it.",
            model=text,
        ) from exc
    return path


def size_of(path: Path) -> int:
    """Bytes of the model at a path. Raises ModelNotFound."""
    try:
        return sum(file.size for file in shelf.files_of(path))
    except OSError as exc:
        raise ModelNotFound(f"{path} cannot be read: {exc.strerror}") from exc


def take(
    path: Path, name: str, models: Path, *, copy: bool, report: Report, stop: threading.Event
) -> Taken:
    """Bring the model at `path` into the models folder, or refer to it where it is.

    Raises InsufficientDisk, Forbidden, Conflict, Cancelled (when `stop` is set), OSError.
    """
    files = shelf.files_of(path)
    if path.resolve().is_relative_to(models.resolve()):
        return Taken(path, _hashed(path, files), linked=True)
    if copy:
        total = sum(file.size for file in files)
        free = shutil.disk_usage(_existing(models)).free
        if free < total + MARGIN:
            raise InsufficientDisk(
                f"a copy of {name} takes {total / 1e6:.0f} MB and leaves {MARGIN >> 20} MiB free;"
                f" the disk of {models} has {free / 1e6:.0f} MB",
                action="Import it without --copy: then it takes no room.",
                required=total + MARGIN,
                available=free,
            )
    work = models / PARTIAL / f"{IMPORTING}{secrets.token_hex(8)}"
    try:
        work.mkdir(mode=0o700, parents=True)
    except OSError as exc:
        raise Forbidden(
            f"{models} cannot be written to: {exc.strerror}",
            action="Give this user the right to write there, or set `models.dir`.",
        ) from exc
    try:
        if copy:
            files = _copied(path, files, work, report, stop)
        elif _linked(path, files, work):
            files = _hashed(path, files)
        else:
            return Taken(path, _hashed(path, files), linked=True)
        return Taken(_placed(path, name, work, models), files, linked=False)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _source(path: Path, file: CatalogueFile) -> Path:
    return (path / file.name if path.is_dir() else path).resolve(strict=True)


def _hashed(path: Path, files: list[CatalogueFile]) -> list[CatalogueFile]:
    """With the hashes by which the program that keeps them names them."""
    folder = path.is_dir()
    return [
        CatalogueFile(
            name=file.name,
            size=file.size,
            sha256=foreign.content_hash(path / file.name if folder else path),
        )
        for file in files
    ]


def _linked(path: Path, files: list[CatalogueFile], work: Path) -> bool:
    """Whether the disk, and the rights, allowed hard links of all files."""
    try:
        for file in files:
            os.link(_source(path, file), work / file.name)
    except OSError:
        return False
    return True


def _copied(
    path: Path, files: list[CatalogueFile], work: Path, report: Report, stop: threading.Event
) -> list[CatalogueFile]:
    total, done, out = sum(file.size for file in files), 0, list[CatalogueFile]()
    for file in files:
        hasher, size = Hasher(), 0
        with _source(path, file).open("rb") as source, (work / file.name).open("xb") as target:
            while data := source.read(STEP):
                if stop.is_set():
                    raise Cancelled(f"the copy of {path} was cancelled")
                hasher.update(data)
                target.write(data)
                size += len(data)
                report(done + size, total, file.name)
            target.flush()
            os.fsync(target.fileno())
        if size != file.size:
            raise Conflict(f"{file.name} changed while it was copied", action="Try it again.")
        done += size
        out.append(CatalogueFile(name=file.name, size=size, sha256=hasher.sha256))
    return out


def _placed(path: Path, name: str, work: Path, models: Path) -> Path:
    """Into a folder of its own, all at once."""
    slug = _UNSAFE.sub("-", name).strip("-.")[:100] or "model"
    root = models / FOLDER
    root.mkdir(mode=0o700, exist_ok=True)
    for number in range(1, 1000):
        target = root / (slug if number == 1 else f"{slug}-{number}")
        try:
            target.mkdir(mode=0o700)
        except FileExistsError:
            continue
        work.rename(target)  # an empty folder makes way
        return target if path.is_dir() else target / path.name
    raise Conflict(f"{root} has a thousand folders called {slug}", action="Remove some of them.")


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
