"""The models of one machine as a whole: the catalogue, the folder, and what lies beside them.

Owns every change of the catalogue and the files behind it. Decides nothing about who may ask for
it, and never fetches. Every method blocks; they may be called from several threads, those that
change something from one at a time.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from rbee.backend_api import BackendInfo
from rbee.errors import Conflict, Forbidden, RbeeError
from rbee.models import foreign, importing, reading, shelf, tidying, verifying
from rbee.models.catalogue import Catalogue, Row, Stamps
from rbee.models.hashing import STEP, Hasher
from rbee.models.library import Library
from rbee.paths import make_private
from rbee.protocol.hives import ModelInfo
from rbee.protocol.models import (
    CatalogueEntry,
    CatalogueFile,
    DownloadOrder,
    ForeignModel,
    GarbageReport,
    ImportBody,
    PlannedFile,
)

log = logging.getLogger("rbee.models")


class DiskUsage(NamedTuple):
    """Bytes."""

    total: int
    free: int


class Stock:
    """`folder` is the models folder, `database` the catalogue's file; `backends` may bring models.

    The catalogue is opened when it is first needed, and anew after it could not be.
    """

    def __init__(
        self,
        *,
        folder: Path,
        database: Path,
        aliases: Mapping[str, str],
        backends: Callable[[], Iterable[BackendInfo]],
    ) -> None:
        self.folder = folder
        self._database = database
        self._aliases = aliases
        self._backends = backends
        self._opening = threading.Lock()
        self._open: tuple[Catalogue, Library] | None = None
        self._bare: Library | None = None
        self._looked: dict[Path, tuple[Stamps, reading.Looked | RbeeError]] = {}
        self._offered: set[str] = set()
        self._noticed = 0

    @property
    def catalogue(self) -> Catalogue:
        """The rows. Raises InternalError, VersionMismatch when their file cannot be used."""
        return self._opened()[0]

    @property
    def library(self) -> Library:
        """The way from a reference to a model. Raises as `catalogue` does."""
        return self._opened()[1]

    def _opened(self) -> tuple[Catalogue, Library]:
        with self._opening:
            if self._open is None:
                catalogue = Catalogue.open(self._database)
                library = Library(self._aliases, self._backends(), catalogue)
                self._open = catalogue, library
            return self._open

    def close(self) -> None:
        """Let go of the catalogue's file."""
        with self._opening:
            if self._open is not None:
                self._open[0].close()
            self._open = None

    # ---- what there is -------------------------------------------------------------------------

    def models(self) -> list[ModelInfo]:
        """All models, hidden ones included; while the catalogue cannot be used, packaged ones."""
        try:
            return self.library.list()
        except RbeeError as exc:
            log.error("only packaged models are listed: %s", exc.message)
            if self._bare is None:
                self._bare = Library(self._aliases, self._backends())
            return self._bare.list()

    def disk(self) -> DiskUsage:
        """The disk that models are kept on, or will be."""
        folder = self.folder
        while not folder.exists():
            folder = folder.parent
        usage = shutil.disk_usage(folder)
        return DiskUsage(usage.total, usage.free)

    def row(self, model: str) -> Row:
        """The catalogue's row of a model. Raises ModelNotFound, Conflict for one that is in no
        catalogue: it comes in a package or was named by its path."""
        row = self.library.kept(model)
        if row is not None:
            return row
        info = self.library.resolve(model)
        raise Conflict(
            f"{info.id} is not in the catalogue: it is read from {info.path}",
            action="Uninstall its package, or remove the file yourself."
            if info.ref.startswith("pkg:")
            else "Nothing to do: rbee keeps nothing of it.",
        )

    def entry(self, model: str) -> CatalogueEntry:
        """A row, or of a model that is in no catalogue what would stand there. Raises as
        `Library.resolve` does."""
        row = self.library.kept(model)
        if row is not None:
            return row.entry
        info = self.library.resolve(model)
        path = Path(info.path)
        files: list[CatalogueFile] = []
        template = False
        try:
            files = shelf.files_of(path)
            template = reading.look(path).template
        except (OSError, RbeeError) as exc:
            log.debug("%s has no files to tell of: %s", info.id, exc)
        return CatalogueEntry(
            id=info.id,
            provider=info.ref.partition(":")[0],
            ref=info.ref,
            path=info.path,
            size=info.size,
            format=info.format,
            architecture=info.architecture,
            quant=info.quant,
            context=info.context,
            template=template,
            capabilities=info.capabilities,
            files=files,
            linked=True,
        )

    def step(self) -> bool:
        """Compare all rows with the disk, tell of files nobody has added; result: `noticed`."""
        for row in self.catalogue.rows(gone=True):
            step = shelf.keep_step(self.catalogue, row)
            if step.news and step.row is not None:
                log.info("%s", step.news)
        for found in foreign.unknown(self.folder, self._known()):
            if str(found.path) not in self._offered:
                self._offered.add(str(found.path))
                log.info("%s is in no catalogue; rbee model import %s adds it", *(found.path,) * 2)
        return self.noticed()

    def noticed(self) -> bool:
        """Whether what is listed has changed on the disk, by anybody's look, since the last time
        this was asked."""
        before = self._noticed
        if self._open is not None:
            self._noticed = self._open[0].noticed
        return self._noticed != before

    # ---- changes -------------------------------------------------------------------------------

    def publish(
        self, order: DownloadOrder, path: Path, files: list[CatalogueFile], *, provider: str
    ) -> ModelInfo:
        """Put in what was fetched to `path` and checked. Raises ModelCorrupted."""
        return self._publish(order, path, files, provider=provider, linked=False)

    def _publish(
        self,
        order: DownloadOrder,
        path: Path,
        files: list[CatalogueFile],
        *,
        provider: str,
        linked: bool,
    ) -> ModelInfo:
        now = time.time()
        entry, info = shelf.entry_of(
            reading.look(path),
            id=order.model_id,
            provider=provider,
            ref=order.ref,
            path=path,
            files=files,
            asked=[order.asked],
            revision=order.revision or None,
            linked=linked,
            downloaded_at=now,
            verified_at=now,
        )
        return self._add(entry, info).info

    def cached(self, order: DownloadOrder) -> dict[str, Path] | None:
        """See `foreign.cached`."""
        return foreign.cached(foreign.Places.of(), order)

    def is_far(self, order: DownloadOrder) -> bool:
        """Whether the hub's cache has all files of an order, on another disk than this folder."""
        found = self.cached(order) or {}
        if set(found) != {file.name for file in order.files}:
            return False
        make_private(self.folder)
        here = self.folder.stat().st_dev
        return any(path.stat().st_dev != here for path in found.values())

    def refer(self, order: DownloadOrder, stop: threading.Event) -> ModelInfo | None:
        """Put in an order's model where the hub's cache keeps it, when all of it is there and
        right; None: it is not. Reads all of its files."""
        found = self.cached(order) or {}
        files: list[CatalogueFile] = []
        for file in order.files:
            path = found.get(file.name)
            if path is None or (sha256 := _right(path, file, stop)) is None:
                return None
            files.append(CatalogueFile(name=file.name, size=file.size, sha256=sha256))
        folder = foreign.snapshot(foreign.Places.of(), order)
        if folder is None:
            return None
        path = folder / files[0].name if len(files) == 1 else folder
        return self._publish(order, path, files, provider="hf-cache", linked=True)

    def ids_of(self, names: Iterable[str]) -> set[str]:
        """Of those models among `names` (ids, references, aliases) that are in the catalogue."""
        out: set[str] = set()
        for name in names:
            try:
                row = self.library.kept(name)
            except RbeeError:
                continue
            if row is not None:
                out.add(row.entry.id)
        return out

    def used(self, path: str) -> None:
        """The model at a path is used now."""
        for row in self.catalogue.rows():
            if row.entry.path == path:
                self.catalogue.used(row.entry.id, time.time())

    def remove(self, row: Row) -> int:
        """Take a model off the disk and out of the catalogue; bytes freed."""
        freed = tidying.remove(row, self.folder)
        self.catalogue.remove(row.entry.id)
        return freed

    def note(self, entry: CatalogueEntry, outcome: verifying.Outcome) -> bool:
        """Write down what a check has found; True when the model is now told otherwise."""
        row = self.library.kept(entry.id)
        if row is None or row.entry.ref != entry.ref:
            return False
        if outcome.problems:
            self.catalogue.verified(row.entry.id, None, None)
            return row.entry.digest is not None
        now = shelf.with_hashes(row, outcome.found, at=time.time())
        self.catalogue.renew(now)
        return now.entry.digest != row.entry.digest

    def import_(
        self, body: ImportBody, path: Path, report: importing.Report, stop: threading.Event
    ) -> tuple[CatalogueEntry, bool]:
        """Take over the model at a path, and whether that is new. Raises as `importing.take` does,
        Conflict for a name that another model has."""
        try:
            looked = reading.look(path)
        except OSError as exc:
            raise Forbidden(
                f"{path} cannot be read: {exc.strerror}", action="Check the file's rights."
            ) from exc
        known = self._known()
        for inode in foreign.inodes(path):
            if inode in known:
                return self.catalogue.named(known[inode]).entry, False
        origin = next((f for f in foreign.find(foreign.Places.of()) if f.path == path), None)
        if origin is None:
            name = path.stem if path.is_file() else path.name
            origin = foreign.Found(name, "file", path)
        name = body.name or foreign.shown_name(origin, looked.info)
        if body.name is not None and (
            name in self.library.names or self.library.kept(name) is not None
        ):
            raise Conflict(f"another model is called {name}", action="Choose another name.")
        make_private(self.folder)
        taken = importing.take(path, name, self.folder, copy=body.copy, report=report, stop=stop)
        entry, info = shelf.entry_of(
            looked,
            id=name,
            provider=origin.provider,
            ref=origin.ref or f"file:{path}",
            path=taken.path,
            files=taken.files,
            asked=[f"file:{path}", f"file:{taken.path}"],
            revision=origin.revision,
            linked=taken.linked,
            downloaded_at=time.time(),
            verified_at=time.time() if body.copy else None,
        )
        return self._add(entry, info).entry, True

    def _add(self, entry: CatalogueEntry, info: ModelInfo) -> Row:
        stamps = shelf.stamps_of(Path(entry.path), entry.files)
        return self.catalogue.add(entry, info, stamps, reserved=self.library.names)

    # ---- room ----------------------------------------------------------------------------------

    def beyond(self, *, quota: int, need: int, kept: Collection[str]) -> list[Row]:
        """Models that must go so that `need` bytes more stay within the quota (bytes)."""
        rows = [(row, tidying.weight(row, self.folder)) for row in self.catalogue.rows()]
        return tidying.to_go(rows, quota=quota, need=need, kept=kept)

    def garbage(
        self, *, quota: int, kept: Collection[str], active: Collection[str], dry_run: bool
    ) -> GarbageReport:
        """Remove begun transfers that are not `active` and, with a quota, models beyond it; with
        `dry_run` only tell. Rows whose files are gone are forgotten."""
        partials = tidying.partials(self.folder, active)
        going = self.beyond(quota=quota, need=0, kept=kept) if quota else []
        weights = {row.entry.id: tidying.weight(row, self.folder) for row in self.catalogue.rows()}
        freed = sum(one.size for one in partials) + sum(weights[r.entry.id] for r in going)
        orphans = tidying.orphans(self.folder, self.catalogue.rows(gone=True))
        if not dry_run:
            freed = sum(tidying.clear(one) for one in partials)
            freed += sum(self.remove(row) for row in going)
            for row in self.catalogue.rows(gone=True):
                if row.gone:
                    self.catalogue.remove(row.entry.id)
        return GarbageReport(
            partial=[one.name for one in partials],
            models=[row.entry.id for row in going],
            orphans=orphans,
            freed=freed,
            dry_run=dry_run,
            kept_for_quota=sum(weights.values()) - sum(weights[r.entry.id] for r in going),
            quota=quota or None,
        )

    # ---- others --------------------------------------------------------------------------------

    def foreign(self) -> list[ForeignModel]:
        """Models of other programs, and files in the models folder that nobody has added. Those of
        the hub's cache are told by the path of their snapshot."""
        known = self._known()
        found = foreign.find(foreign.Places.of()) + foreign.unknown(self.folder, known)
        return [foreign.told(one, known, self._look) for one in found]

    def _known(self) -> dict[foreign.Inode, str]:
        """What shares its content with a model here, whatever it is called: inode → id."""
        rows = self.catalogue.rows()
        return {i: row.entry.id for row in rows for i in foreign.inodes(Path(row.entry.path))}

    def _look(self, path: Path) -> reading.Looked:
        """As `reading.look`, remembered until the file changes."""
        stamps = shelf.stamps_of(path)
        seen = self._looked.get(path)
        if seen is None or seen[0] != stamps:
            try:
                seen = stamps, reading.look(path)
            except RbeeError as exc:
                seen = stamps, exc
            if len(self._looked) > 2 * foreign.MAX_MODELS:
                self._looked.clear()
            self._looked[path] = seen
        if isinstance(seen[1], RbeeError):
            raise seen[1]
        return seen[1]


def _right(path: Path, file: PlannedFile, stop: threading.Event) -> str | None:
    """The SHA-256 of a file that is what was planned; None: it is not, or nobody can tell."""
    hasher = Hasher(file.size if file.git_sha1 is not None else None)
    try:
        with path.open("rb", buffering=0) as source:
            while not stop.is_set() and (data := source.read(STEP)):
                hasher.update(data)
    except OSError:
        return None
    if file.sha256 is not None:
        return hasher.sha256 if hasher.sha256 == file.sha256 else None
    return hasher.sha256 if file.git_sha1 and hasher.git_sha1 == file.git_sha1 else None
