"""Models that other programs keep on this machine: the hub's own cache, LM Studio, Ollama.

Owns where they keep them and how their folders are laid out. Looks and never changes anything: what
is taken over is `importing`'s business. Everything found is bounded in number and size, links are
followed to regular files only, and what cannot be read is told as a problem or passed over.

    hub cache   models--ORG--REPO/snapshots/COMMIT/FILE → ../../blobs/ETAG
                https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    LM Studio   PUBLISHER/REPO/FILE.gguf, or a folder of safetensors
    Ollama      manifests/HOST/NAMESPACE/MODEL/TAG (JSON) → blobs/sha256-HEX
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from rbee.errors import RbeeError
from rbee.models import reading, safetensors_folder
from rbee.protocol.hives import ModelInfo
from rbee.protocol.models import DownloadOrder, ForeignModel

MAX_MODELS = 500
_MAX_ENTRIES = 5000
_MAX_MANIFEST = 1 << 20
_DEPTH = 4
_REPO = re.compile(r"models--([A-Za-z0-9][A-Za-z0-9._-]{0,95})--([A-Za-z0-9][A-Za-z0-9._-]{0,95})")
_HUB_REF = re.compile(r"hf:([^/@:]+)/([^/@:]+)(?:[@:].*)?", re.DOTALL)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_HEX = re.compile(r"[0-9a-f]{64}")
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_OLLAMA_MODEL = "application/vnd.ollama.image.model"
_OLLAMA_ADAPTER = "application/vnd.ollama.image.adapter"
Inode = tuple[int, int]
Look = Callable[[Path], reading.Looked]


class _Layer(msgspec.Struct, frozen=True):
    mediaType: str = ""
    digest: str = ""


class _Manifest(msgspec.Struct, frozen=True):
    layers: Annotated[list[_Layer], msgspec.Meta(max_length=64)] = []


_MANIFEST = msgspec.json.Decoder(_Manifest)


@dataclass(frozen=True)
class Places:
    """Folders to look in; those that are not there are passed over."""

    hub: Path
    lmstudio: tuple[Path, ...]
    ollama: tuple[Path, ...]

    @staticmethod
    def of(env: Mapping[str, str] = os.environ, home: Path | None = None) -> Places:
        """As the programs themselves find them."""
        home = home or Path.home()

        def given(name: str) -> Path | None:
            text = env.get(name)
            if not text or "\0" in text:
                return None
            return home / text[2:] if text.startswith("~/") else Path(text)

        cache = given("XDG_CACHE_HOME") or home / ".cache"
        root = given("HF_HOME") or cache / "huggingface"
        ollama = given("OLLAMA_MODELS")
        return Places(
            hub=given("HF_HUB_CACHE") or given("HUGGINGFACE_HUB_CACHE") or root / "hub",
            lmstudio=(home / ".lmstudio/models", home / ".cache/lm-studio/models"),
            ollama=(ollama,)
            if ollama is not None
            else (home / ".ollama/models", Path("/usr/share/ollama/.ollama/models")),
        )


class Found(NamedTuple):
    """A model of another program's, before anybody has looked into it."""

    name: str
    provider: str
    path: Path
    ref: str | None = None
    """What the hub calls it."""
    revision: str | None = None
    problem: str = ""


def content_hash(path: Path) -> str | None:
    """The SHA-256 that a program's own store names a file by; None: it does not, or not by that."""
    try:
        name = path.resolve(strict=True).name
    except (OSError, RuntimeError):
        return None
    if (match := _DIGEST.fullmatch(name)) is not None:
        return match[1]
    return name if _HEX.fullmatch(name) else None


def find(places: Places) -> list[Found]:
    """All models of other programs, those of one program together, by name."""
    out: list[Found] = []
    for models in (
        _hub_cache(places.hub),
        *map(_lmstudio, places.lmstudio),
        *map(_ollama, places.ollama),
    ):
        out += sorted(islice(models, MAX_MODELS), key=lambda found: found.name)
    return out


def told(found: Found, known: Mapping[Inode, str], look: Look = reading.look) -> ForeignModel:
    """What is told of it: looked into, and whether the catalogue has it (`known`: inode → id)."""
    name, problem, size, form, quant = found.name, found.problem, 0, "", None
    try:
        size = _size(found.path)
        if not problem:
            info = look(found.path).info
            form, quant = info.format, info.quant
            name = shown_name(found, info)
    except RbeeError as exc:
        problem = exc.message
    except OSError as exc:
        problem = f"cannot be read: {exc.strerror}"
    return ForeignModel(
        name=name,
        provider=found.provider,
        path=str(found.path),
        size=size,
        format=form,
        quant=quant,
        known_as=next((known[i] for i in inodes(found.path) if i in known), None),
        problem=problem,
    )


def unknown(models: Path, known: Mapping[Inode, str]) -> list[Found]:
    """Models in the models folder itself that nobody has put into the catalogue."""
    return [
        Found(path.stem if path.is_file() else path.name, "file", path)
        for path in islice(_models_in(models, _DEPTH + 2), MAX_MODELS)
        if not any(inode in known for inode in inodes(path))
    ]


def inodes(path: Path) -> list[Inode]:
    """Of a file, or of the weights in a folder: what hard links and references share."""
    try:
        if path.is_dir():
            paths = sorted(islice(path.glob("*.safetensors"), safetensors_folder.MAX_SHARDS))
        else:
            paths = [path]
        stats = [one.stat() for one in paths]
    except OSError:
        return []
    return [(status.st_dev, status.st_ino) for status in stats]


def snapshot(places: Places, order: DownloadOrder) -> Path | None:
    """The folder of an order's revision in the hub's cache; None: it has no place there."""
    repo = _HUB_REF.fullmatch(order.ref)
    if repo is None or _COMMIT.fullmatch(order.revision) is None:
        return None
    name = f"models--{repo[1]}--{repo[2]}"
    if _REPO.fullmatch(name) is None:
        return None
    return places.hub / name / "snapshots" / order.revision


def cached(places: Places, order: DownloadOrder) -> dict[str, Path] | None:
    """Files of an order that lie in the hub's cache with the right size, by name; None: none does.

    Found by revision and name. Whether they are right is for whoever takes them to check.
    """
    folder = snapshot(places, order)
    if folder is None:
        return None
    out: dict[str, Path] = {}
    for file in order.files:
        parts = file.name.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            continue
        try:
            path = folder.joinpath(*parts).resolve(strict=True)
            if path.is_file() and path.stat().st_size == file.size:
                out[file.name] = path
        except (OSError, RuntimeError):
            continue
    return out or None


def shown_name(found: Found, info: ModelInfo) -> str:
    """What the model is called here: as the hub's models are, where it is one."""
    if found.provider == "hf-cache" and info.format == "gguf" and info.quant:
        return f"{found.name.partition(':')[0]}:{info.quant}"
    return found.name


def _hub_cache(cache: Path) -> Iterator[Found]:
    for folder in _folders(cache):
        match = _REPO.fullmatch(folder.name)
        if match is None:
            continue
        repo = f"{match[1]}/{match[2]}"
        seen: set[Inode] = set()
        for snapshot in _folders(folder / "snapshots"):
            commit = snapshot.name
            if _COMMIT.fullmatch(commit) is None:
                continue
            for path in _models_in(snapshot, _DEPTH):
                here = inodes(path)
                if not here or seen.issuperset(here):
                    continue
                seen.update(here)
                ref = f"hf:{repo}@{commit}"
                if path.is_file():
                    file = path.relative_to(snapshot).as_posix()
                    yield Found(f"{repo}:{path.stem}", "hf-cache", path, f"{ref}::{file}", commit)
                elif path == snapshot:
                    yield Found(repo, "hf-cache", path, ref, commit)


def _lmstudio(root: Path) -> Iterator[Found]:
    for publisher in _folders(root):
        for repo in _folders(publisher):
            for path in _models_in(repo, 2):
                name = path.stem if path.is_file() else path.name
                yield Found(name, "lmstudio", path)


def _ollama(root: Path) -> Iterator[Found]:
    manifests = root / "manifests"
    for path in islice(_files(manifests, _DEPTH + 1), MAX_MODELS):
        parts = path.relative_to(manifests).parts
        if len(parts) != 4:
            continue
        host, space, model, tag = parts
        where = [] if host == "registry.ollama.ai" else [host]
        where += [] if space == "library" else [space]
        name = "/".join([*where, f"{model}:{tag}"])
        if not name.isprintable():
            continue
        layers = _layers(path)
        weights = [layer for layer in layers if layer.mediaType == _OLLAMA_MODEL]
        match = _DIGEST.fullmatch(weights[0].digest) if weights else None
        if match is None:
            continue
        problem = ""
        if len(weights) > 1:
            problem = f"it has {len(weights)} files of weights; this version reads single files"
        elif any(layer.mediaType == _OLLAMA_ADAPTER for layer in layers):
            problem = "it needs an adapter, which this version does not load"
        yield Found(name, "ollama", root / "blobs" / f"sha256-{match[1]}", problem=problem)


def _layers(manifest: Path) -> list[_Layer]:
    try:
        with manifest.open("rb") as file:
            data = file.read(_MAX_MANIFEST + 1)
        return _MANIFEST.decode(data).layers if len(data) <= _MAX_MANIFEST else []
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return []


def _models_in(folder: Path, depth: int) -> Iterator[Path]:
    """GGUF files by name and folders of safetensors, the folder itself included."""
    if safetensors_folder.is_model(folder):
        yield folder
        return
    for path in _files(folder, depth, stop=safetensors_folder.is_model):
        if path.is_dir():
            yield path
        elif path.suffix.lower() == ".gguf":
            projector = path.name.lower().startswith("mmproj")
            if not projector and _LATER_PART.search(path.name) is None:
                yield path


def _files(
    folder: Path, depth: int, *, stop: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """Regular files under a folder, and the folders at which `stop` says to stop. Links to folders
    are not followed, hidden names are passed over."""
    left = _MAX_ENTRIES
    waiting = [(folder, depth)]
    while waiting:
        at, levels = waiting.pop()
        for entry in _entries(at):
            left -= 1
            if left < 0:
                return
            path = Path(entry.path)
            try:
                if entry.is_dir(follow_symlinks=False):
                    if stop is not None and stop(path):
                        yield path
                    elif levels > 0:
                        waiting.append((path, levels - 1))
                elif entry.is_file():
                    yield path
            except OSError:
                continue


def _folders(folder: Path) -> list[Path]:
    out: list[Path] = []
    for entry in _entries(folder):
        try:
            if entry.is_dir():
                out.append(Path(entry.path))
        except OSError:
            continue
    return out


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """By name; nothing of a folder that cannot be read."""
    try:
        with os.scandir(folder) as found:
            entries = [e for e in islice(found, _MAX_ENTRIES) if _sound(e.name)]
    except (OSError, ValueError):
        return []
    return sorted(entries, key=lambda entry: entry.name)


def _sound(name: str) -> bool:
    """A hidden name, one that is not UTF-8 or one with control characters is not shown."""
    return not name.startswith(".") and name.isprintable()


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum(one.stat().st_size for one in _files(path, 0))
