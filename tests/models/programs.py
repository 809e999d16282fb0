"""A home in which other programs keep models, and a stock of ours beside them."""

from __future__ import annotations

import threading
from pathlib import Path

from foreign_folders import COMMIT, sha256
from gguf_files import METADATA, TENSORS, build

from rbee.models import importing
from rbee.models.foreign import Places
from rbee.models.stock import Stock
from rbee.protocol.models import CatalogueEntry, DownloadOrder, ImportBody, PlannedFile

GGUF = build(METADATA, TENSORS)


class Programs:
    """Their folders, and ours."""

    def __init__(self, root: Path) -> None:
        self.places = Places.of({}, root)
        self.models = root / "rbee" / "models"
        self.stock = Stock(
            folder=self.models, database=root / "rbee" / "catalogue.db", aliases={}, backends=list
        )

    def take(self, path: Path | str, **more: object) -> CatalogueEntry:
        body = ImportBody(path=str(path), **more)  # pyright: ignore[reportArgumentType]
        checked = importing.checked(body)
        return self.stock.import_(body, checked, lambda *_: None, threading.Event())[0]

    def named(self) -> dict[str, str]:
        return {found.name: found.problem for found in self.stock.foreign()}


def order(files: dict[str, bytes], repo: str = "org/tiny", **more: object) -> DownloadOrder:
    planned = [
        PlannedFile(name=name, size=len(data), sha256=sha256(data)) for name, data in files.items()
    ]
    given = {"ref": f"hf:{repo}@{COMMIT}", "model_id": repo, "asked": f"hf:{repo}"}
    given |= {"revision": COMMIT, "format": "gguf", "files": planned, **more}
    return DownloadOrder(**given)  # pyright: ignore[reportArgumentType]
