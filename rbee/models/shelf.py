"""What lies on the disk for a row of the catalogue, and whether the row still tells the truth.

Owns the way between the two: which files belong to a model, what tells a file from what it was, and
what becomes of a row whose files have gone or changed. Never deletes a file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from rbee.errors import RbeeError
from rbee.models import reading
from rbee.models.catalogue import Catalogue, Row, Stamps
from rbee.protocol.hives import ModelInfo
from rbee.protocol.models import CatalogueEntry, CatalogueFile

log = logging.getLogger("rbee.models")
BELONGING = (".safetensors", ".json", ".jinja", ".model", ".txt")
"""How the files of a model end that is kept in a folder."""
MAX_FILES = 4096


class Step(NamedTuple):
    """A row after it was compared with the disk; None: it must not be listed."""

    row: Row | None
    news: str = ""
    """One sentence when something has changed."""


def where(entry: CatalogueEntry, name: str) -> Path:
    """The path of one of the entry's files."""
    return Path(entry.path, name) if is_folder(entry) else Path(entry.path)


def is_folder(entry: CatalogueEntry) -> bool:
    """Whether the entry's path is a folder."""
    return entry.format == "safetensors" or len(entry.files) > 1


def files_of(path: Path) -> list[CatalogueFile]:
    """The files of the model at a path, by name; of a folder those that belong to one. Raises
    OSError."""
    if not stat.S_ISDIR(path.stat().st_mode):
        return [CatalogueFile(name=path.name, size=path.stat().st_size)]
    with os.scandir(path) as entries:
        found = [
            CatalogueFile(name=entry.name, size=entry.stat().st_size)
            for entry in entries
            if entry.name.endswith(BELONGING) and entry.name[0] != "." and entry.is_file()
        ]
    return sorted(found, key=lambda file: file.name)[:MAX_FILES]


def stamps_of(path: Path, files: Iterable[CatalogueFile] | None = None) -> Stamps:
    """Size and time of each file of the model at a path. Raises OSError, FileNotFoundError first
    of all."""
    folder = stat.S_ISDIR(path.stat().st_mode)
    out: Stamps = {}
    for file in files_of(path) if files is None else files:
        status = (path / file.name if folder else path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(f"{file.name} is not a file")
        out[file.name] = (status.st_size, status.st_mtime_ns)
    return out


def digest_of(files: list[CatalogueFile]) -> str | None:
    """What tells a model's content; None where a file's hash is not known. See CatalogueEntry."""
    if not files or any(file.sha256 is None for file in files):
        return None
    if len(files) == 1:
        return f"sha256:{files[0].sha256}"
    lines = "".join(f"{f.sha256}  {f.name}\n" for f in sorted(files, key=lambda f: f.name))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def entry_of(
    looked: reading.Looked,
    *,
    id: str,  # noqa: A002
    provider: str,
    ref: str,
    path: Path,
    files: list[CatalogueFile],
    asked: Iterable[str] = (),
    revision: str | None = None,
    linked: bool = False,
    downloaded_at: float | None = None,
    verified_at: float | None = None,
) -> tuple[CatalogueEntry, ModelInfo]:
    """The row of a model that was looked at."""
    info = looked.info
    digest = digest_of(files)
    entry = CatalogueEntry(
        id=id,
        provider=provider,
        ref=ref,
        asked=[text for text in asked if text not in (id, ref)],
        revision=revision,
        path=str(path),
        size=sum(file.size for file in files),
        digest=digest,
        format=info.format,
        architecture=info.architecture,
        quant=info.quant,
        context=info.context,
        template=looked.template,
        capabilities=list(info.capabilities),
        files=files,
        linked=linked,
        downloaded_at=downloaded_at,
        verified_at=verified_at,
    )
    return entry, msgspec.structs.replace(info, id=id, ref=ref, path=str(path), digest=digest)


def with_hashes(row: Row, found: Mapping[str, str], *, at: float) -> Row:
    """A row whose files are all right; `found`: the hashes of those that had none, by name."""
    files = [
        msgspec.structs.replace(file, sha256=file.sha256 or found.get(file.name))
        for file in row.entry.files
    ]
    digest = digest_of(files)
    entry = msgspec.structs.replace(row.entry, files=files, digest=digest, verified_at=at)
    return Row(entry, msgspec.structs.replace(row.info, digest=digest), row.stamps)


def keep_step(catalogue: Catalogue, row: Row) -> Step:
    """Compare a row with the disk and write down what has changed. Looks at sizes and times; what
    has changed is read again, and its digest is not believed until it is verified."""
    entry = row.entry
    try:
        stamps = stamps_of(Path(entry.path), entry.files)
    except OSError as exc:
        why = exc.strerror or "not a file"
        return _lost(catalogue, row, f"{entry.id} is gone: {entry.path} ({why})")
    if stamps == row.stamps and row.fresh and not row.gone:
        return Step(row)
    try:
        looked = reading.look(Path(entry.path))
    except (RbeeError, OSError) as exc:
        why = exc.message if isinstance(exc, RbeeError) else str(exc)
        return _lost(catalogue, row, f"{entry.id} cannot be used any more: {why}")
    changed = _reread(row, looked, stamps)
    catalogue.renew(changed)
    if row.gone:
        catalogue.noticed += 1
        return Step(changed, f"{entry.id} is there again: {entry.path}")
    if stamps != row.stamps:
        catalogue.noticed += 1
        return Step(changed, f"{entry.id} was changed by another program and is read again")
    return Step(changed)


def _lost(catalogue: Catalogue, row: Row, news: str) -> Step:
    if row.gone:
        return Step(None)
    catalogue.lose(row.entry.id)
    catalogue.noticed += 1
    log.warning("%s", news)
    return Step(None, news)


def _reread(row: Row, looked: reading.Looked, stamps: Stamps) -> Row:
    same = stamps == row.stamps
    info = looked.info
    entry = msgspec.structs.replace(
        row.entry,
        size=sum(size for size, _ in stamps.values()),
        files=[
            file if file.sha256 else CatalogueFile(name=file.name, size=stamps[file.name][0])
            for file in row.entry.files
        ],
        format=info.format,
        architecture=info.architecture,
        quant=info.quant,
        context=info.context,
        template=looked.template,
        capabilities=list(info.capabilities),
        digest=row.entry.digest if same else None,
        verified_at=row.entry.verified_at if same else None,
    )
    told = msgspec.structs.replace(info, id=entry.id, ref=entry.ref, digest=entry.digest)
    return Row(entry, told, stamps)
