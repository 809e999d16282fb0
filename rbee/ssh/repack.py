"""Wheels out of what is installed, and out of other wheels: the same content gives the same bytes.

Owns the way from a distribution's RECORD (PEP 376, PEP 427) back to a wheel that installs like the
one it came from. Changes nothing that is installed and needs no network. All of it blocks.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackagePath
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.tags import Tag, parse_tag
from packaging.utils import canonicalize_name

from rbee.errors import InstallFailed

_LEFT = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "RECORD.jws"})
_METADATA = re.compile(r"[^/]+\.dist-info/METADATA")
_RECORD = re.compile(r"[^/]+\.dist-info/RECORD(\.jws)?")
_STAMP = (1980, 1, 1, 0, 0, 0)
_LEVEL = 6


@dataclass(frozen=True)
class Member:
    """A file of a wheel: its place in it, its bytes, whether it may be run."""

    name: str
    data: Callable[[], bytes]
    executable: bool = False


Leave = Callable[[str], bool]
"""Whether a place in a wheel is to be left out."""


def is_editable(dist: Distribution) -> bool:
    """Whether it is a link to a source tree (PEP 660)."""
    return _direct(dist).get("dir_info", {}).get("editable") is True


def source_of(dist: Distribution) -> Path | None:
    """The source tree of an editable installation."""
    url = str(_direct(dist).get("url", ""))
    if not is_editable(dist) or not url.startswith("file://"):
        return None
    return Path(unquote(urlsplit(url).path))


def tags_of(dist: Distribution) -> frozenset[Tag]:
    """Where the wheel that was installed runs; empty when it does not tell."""
    lines = (dist.read_text("WHEEL") or "").splitlines()
    values = [line.partition(":")[2].strip() for line in lines if line.startswith("Tag:")]
    return frozenset(tag for value in values if value.count("-") == 2 for tag in parse_tag(value))


def record_hash(dist: Distribution) -> str:
    """Of what is installed: other files, another hash."""
    return hashlib.sha256((dist.read_text("RECORD") or "").encode()).hexdigest()[:16]


def repack(dist: Distribution, folder: Path, leave: Leave = lambda _: False) -> Path:
    """The wheel of an installed distribution, in a folder named by its content; made once.

    Raises InstallFailed when it is editable, was installed without a RECORD, or has files that are
    not as they were installed.
    """
    name = f"{_plain(dist.metadata['Name'])}-{_plain(dist.version)}"
    place = folder / record_hash(dist)
    for made in place.glob(f"{name}-*.whl"):
        os.utime(made)
        return made
    if is_editable(dist):
        raise _refused(dist, "it is a link to sources")
    if not dist.files or not dist.read_text("RECORD"):
        raise _refused(dist, "nobody knows its files")
    members = [member for file in dist.files for member in _member(dist, file, leave)]
    tags = _compressed(tags_of(dist)) or "py3-none-any"
    return write(place / f"{name}-{tags}.whl", members)


def rewritten(
    wheel: Path, target: Path, leave: Leave = lambda _: False, add: Mapping[str, Path] | None = None
) -> Path:
    """The same wheel with the same bytes each time it is built; files left out or added."""
    members: list[Member] = []
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            name = info.filename
            if info.is_dir() or leave(name) or _RECORD.fullmatch(name):
                continue
            mode = info.external_attr >> 16
            members.append(Member(name, lambda n=name: archive.read(n), bool(mode & 0o100)))
        for name, path in (add or {}).items():
            members.append(Member(name, path.read_bytes, True))
        return write(target, members)


def write(target: Path, members: Sequence[Member]) -> Path:
    """A wheel of these files; its RECORD is made here. Never seen in part."""
    target.parent.mkdir(parents=True, exist_ok=True)
    info = next((m.name.split("/")[0] for m in members if _METADATA.fullmatch(m.name)), None)
    if info is None:
        raise InstallFailed(f"{target.name} would be no wheel: no METADATA", step="packages")
    rows: list[str] = []
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".new-", delete=False) as file:
        new = Path(file.name)
        try:
            with zipfile.ZipFile(file, "w") as archive:
                for member in sorted(members, key=lambda m: (m.name.startswith(info), m.name)):
                    data = member.data()
                    rows.append(f"{_quoted(member.name)},sha256={_digest(data)},{len(data)}\n")
                    _put(archive, member.name, data, executable=member.executable)
                record = f"{info}/RECORD"
                text = "".join([*rows, f"{record},,\n"])
                _put(archive, record, text.encode(), executable=False)
            file.close()
            new.chmod(0o644)
            os.replace(new, target)
        finally:
            new.unlink(missing_ok=True)
    return target


def bundle(wheels: Sequence[Path], folder: Path) -> Path:
    """One archive of these files, as they are; made once for each content."""
    seen = hashlib.sha256()
    for wheel in sorted(wheels, key=lambda path: path.name):
        seen.update(f"{wheel.name}\0{_digest(wheel.read_bytes())}\n".encode())
    made = folder / f"wheels-{seen.hexdigest()[:16]}.zip"
    if made.exists():
        os.utime(made)
        return made
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".new-", delete=False) as file:
        new = Path(file.name)
        try:
            with zipfile.ZipFile(file, "w") as archive:
                for wheel in sorted(wheels, key=lambda path: path.name):
                    entry = zipfile.ZipInfo(wheel.name, _STAMP)
                    entry.external_attr = 0o100644 << 16
                    archive.writestr(entry, wheel.read_bytes())
            file.close()
            os.replace(new, made)
        finally:
            new.unlink(missing_ok=True)
    return made


def metadata_of(wheel: Path) -> str:
    """The METADATA of a wheel. Raises InstallFailed."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if _METADATA.fullmatch(name):
                    return archive.read(name).decode("utf-8", "replace")
    except (OSError, zipfile.BadZipFile) as exc:
        raise InstallFailed(f"{wheel.name} cannot be read: {exc}", step="packages") from exc
    raise InstallFailed(f"{wheel.name} is no wheel: it has no METADATA", step="packages")


def _put(archive: zipfile.ZipFile, name: str, data: bytes, *, executable: bool) -> None:
    entry = zipfile.ZipInfo(name, _STAMP)
    entry.create_system = 3  # Unix, for the mode
    entry.external_attr = (0o100755 if executable else 0o100644) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, data, compresslevel=_LEVEL)


def _member(dist: Distribution, file: PackagePath, leave: Leave) -> Iterable[Member]:
    path = PurePosixPath(file)
    in_info = path.parent.name.endswith(".dist-info") and len(path.parts) == 2
    if path.suffix == ".pyc" or "__pycache__" in path.parts or (in_info and path.name in _LEFT):
        return
    where = Path(str(dist.locate_file(file)))
    place = _place(dist, path)
    if place is not None and not leave(place):
        yield Member(place, lambda: _read(dist, file, where, place), os.access(where, os.X_OK))


def _place(dist: Distribution, path: PurePosixPath) -> str | None:
    """Where a file belongs in the wheel; None: pip makes it anew."""
    up = sum(part == ".." for part in path.parts)
    rest = path.parts[up:]
    if path.is_absolute() or ".." in rest or not rest:
        raise _refused(dist, f"{path} is outside of its environment")
    if up == 0:
        return str(path)
    data = f"{_plain(dist.metadata['Name'])}-{_plain(dist.version)}.data"
    if rest[0] != "bin" or len(rest) != 2:
        return f"{data}/data/{'/'.join(rest)}"
    groups = ("console_scripts", "gui_scripts")
    made = {entry.name for entry in dist.entry_points if entry.group in groups}
    return None if rest[1] in made else f"{data}/scripts/{rest[1]}"


def _read(dist: Distribution, file: PackagePath, where: Path, place: str) -> bytes:
    try:
        raw = where.read_bytes()
    except OSError as exc:
        raise _refused(dist, f"{file}: {exc.strerror or exc}") from exc
    if file.hash is not None and file.hash.mode == "sha256" and _digest(raw) != file.hash.value:
        raise _refused(dist, f"{file} is not as it was installed")
    if ".data/scripts/" not in place or not raw.startswith(b"#!"):
        return raw
    first, newline, rest = raw.partition(b"\n")
    return (b"#!python" if b"python" in first else first) + newline + rest


def _compressed(tags: frozenset[Tag]) -> str:
    """One tag for the file's name (PEP 425), the first alone where they do not combine."""
    parts = [sorted({getattr(tag, part) for tag in tags})
             for part in ("interpreter", "abi", "platform")]  # fmt: skip
    joined = "-".join(".".join(part) for part in parts)
    if tags and parse_tag(joined) != tags:
        return str(min(tags, key=str))
    return joined if tags else ""


def _direct(dist: Distribution) -> dict[str, Any]:
    try:
        found: Any = json.loads(dist.read_text("direct_url.json") or "{}")
    except ValueError:
        return {}
    return dict(found) if isinstance(found, dict) else {}


def _plain(text: str) -> str:
    """A name or a version as file names have it (PEP 427, PEP 440)."""
    return re.sub(r"[^A-Za-z0-9.+!]+", "_", text)


def _quoted(name: str) -> str:
    if not any(sign in name for sign in ',"\n'):
        return name
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([name])
    return text.getvalue()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _refused(dist: Distribution, why: str) -> InstallFailed:
    name = canonicalize_name(dist.metadata["Name"])
    return InstallFailed(
        f"{name} {dist.version} cannot be sent as it is installed here: {why}", step="packages"
    )
