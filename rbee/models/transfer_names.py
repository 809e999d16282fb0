"""What may be fetched under which name, and where in the models folder it goes.

Owns the checks of an order that came over the wire and the layout of what is fetched. Never opens
a file.

    <models>/.partial/<download id>/    on its way: see transfer_partial
    <models>/hf/<org>/<repo>/<revision>/<file>       a model of one file
    <models>/hf/<org>/<repo>/<revision>/<name>/…     a model of several
    <models>/copy/<download id>/…                    from another machine, not of the hub
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from rbee.errors import ValidationFailed
from rbee.protocol.models import DownloadOrder, PlannedFile

MAX_FILES = 2000
MAX_SIZE = 1 << 44
PARTIAL = ".partial"
_PART_BYTES, _NAME_BYTES, _URL_CHARS = 255, 1024, 16 << 10
_HEX = {"sha256": re.compile(r"[0-9a-f]{64}"), "git_sha1": re.compile(r"[0-9a-f]{40}")}
_HUB = re.compile(
    r"hf:(?P<org>[A-Za-z0-9][A-Za-z0-9._-]{0,95})/(?P<repo>[A-Za-z0-9][A-Za-z0-9._-]{0,95})(?:[@:].*)?",
    re.DOTALL,
)
_REVISION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")


def download_id(ref: str) -> str:
    """What tells this transfer from others, also after a restart."""
    return hashlib.sha256(ref.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def check_name(name: str) -> PurePosixPath:
    """A file's path inside its model. Raises ValidationFailed for one that could lead elsewhere."""
    parts = name.split("/")
    try:
        long = len(name.encode()) > _NAME_BYTES or any(len(p.encode()) > _PART_BYTES for p in parts)
    except UnicodeEncodeError:
        raise _bad("files", f"the name {name[:80]!r} is not valid UTF-8", "UTF-8") from None
    if long:
        raise _bad("files", f"the name {name[:80]!r}… is too long", f"{_PART_BYTES} bytes a part")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or ":" in parts[0]:
        raise _bad("files", f"the name {name[:80]!r} leads out of its folder", "relative path")
    if not name.isprintable():
        raise _bad("files", f"the name {name[:80]!r} has control characters", "printable")
    return PurePosixPath(name)


def check_order(order: DownloadOrder, *, urls: bool = True) -> None:
    """Raises ValidationFailed for an order that cannot be right. `urls`: each file needs one."""
    if not order.ref or len(order.ref) > 2048:
        raise _bad("ref", "a reference has 1 to 2048 characters", "1..2048")
    if not 1 <= len(order.files) <= MAX_FILES:
        raise _bad("files", f"{len(order.files)} files; 1 to {MAX_FILES}", f"1..{MAX_FILES}")
    of_hub = _HUB.fullmatch(order.ref) is not None
    if _REVISION.fullmatch(order.revision) is None and (of_hub or order.revision):
        raise _bad("revision", f"{order.revision[:80]!r} is not a revision", "commit")
    seen: set[str] = set()
    for file in order.files:
        name = str(check_name(file.name)).casefold()
        if name in seen:
            raise _bad("files", f"{file.name!r} is there twice", "distinct names")
        seen.add(name)
        _check_file(file, urls)


def _check_file(file: PlannedFile, urls: bool) -> None:
    if not 0 <= file.size <= MAX_SIZE:
        raise _bad("size", f"{file.name}: {file.size} bytes", f"0..{MAX_SIZE}")
    for field, shape in _HEX.items():
        value: str | None = getattr(file, field)
        if value is not None and shape.fullmatch(value) is None:
            raise _bad(field, f"{file.name}: {field} is not one", shape.pattern)
    if file.content is not None:
        if len(file.content) != file.size:
            raise _bad("content", f"{file.name}: {len(file.content)} bytes", f"{file.size} bytes")
    elif urls:
        check_url(file.name, file.url)


def check_url(name: str, url: str) -> None:
    """Raises ValidationFailed unless it is plain HTTP(S); never repeats the address."""
    try:
        split = urlsplit(url)
        sound = split.scheme in ("http", "https") and bool(split.hostname)
        sound = sound and split.username is None and len(url) <= _URL_CHARS and url.isprintable()
    except ValueError:
        sound = False
    if not sound:
        raise _bad("url", f"{name}: its address is not an http or https one", "http(s)")


def folder_of(models: Path, order: DownloadOrder) -> Path:
    """Where the order's partial files are kept."""
    return models / PARTIAL / download_id(order.ref)


def place_of(models: Path, order: DownloadOrder) -> Path:
    """Where the model will be: a file for one file, else a folder of its own."""
    hub = _HUB.fullmatch(order.ref)
    if hub is None or ".." in (hub["org"], hub["repo"]):
        folder = models / "copy" / download_id(order.ref)
    else:
        folder = models / "hf" / hub["org"] / hub["repo"] / order.revision[:12]
    first = check_name(order.files[0].name)
    if len(order.files) == 1:
        return folder / first
    return folder / (first.stem if order.format == "gguf" else "safetensors")


def _bad(field: str, message: str, constraint: str) -> ValidationFailed:
    return ValidationFailed(message, field=field, constraint=constraint)
