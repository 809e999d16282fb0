"""Models on the hub and on the hives: what can be had, what is on its way, what is kept."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from rbee.protocol.base import Request, Wire
from rbee.protocol.hives import ModelInfo


class PlannedFile(Wire, frozen=True, kw_only=True):
    """One file of a model that is to be fetched. `name` is its path inside the repository."""

    name: str
    size: int
    sha256: str | None = None
    """Hex; of files the hub keeps in large-file storage."""
    git_sha1: str | None = None
    """Hex, as git names a blob; of the others."""
    url: str = ""
    """Where its bytes are; no secret is needed there. Empty: they are sent by the queen."""
    content: bytes | None = None
    """All of it, for a small file that only the queen may read."""


class DownloadOrder(Wire, frozen=True, kw_only=True):
    """POST /v1/models/download of a hive: fetch these files, check them, put them in the catalogue.

    `ref` names one revision and, for a single file, the file: `hf:org/repo@<commit>::file.gguf`.
    Orders of equal `ref` are one transfer.
    """

    ref: str
    model_id: str
    """What the model is called in listings; also a name to ask for it by."""
    asked: str
    """The reference as it was asked for; it leads to the model from then on."""
    revision: str
    format: str
    """`gguf` or `safetensors`."""
    files: list[PlannedFile]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class TransferState(StrEnum):
    """waiting → running → verifying → done; failed or cancelled from anywhere."""

    WAITING = "waiting"
    RUNNING = "running"
    VERIFYING = "verifying"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DownloadInfo(Wire, frozen=True, kw_only=True):
    """A transfer as its hive tells it. Bytes; `rate` in bytes per second over the last seconds."""

    download_id: str
    ref: str
    model_id: str
    state: TransferState
    bytes_done: int
    bytes_total: int
    rate: float = 0.0
    eta_seconds: float | None = None
    attempt: int = 1
    """Try of the file that had to be begun anew most often."""
    file: str = ""
    """One that is on its way."""
    message: str = ""
    """One sentence when there is something to say: a retry, a wait for the disk."""
    error: dict[str, Any] | None = None
    """The `error` object of an RbeeError body when it has failed."""
    hive: str = ""
    jobs: list[str] = []
    """Ids of the queen's jobs that wait for it; it goes on until the last of them is cancelled."""


class CatalogueFile(Wire, frozen=True, kw_only=True):
    """One file of a model on disk; `name` is relative to the model's folder."""

    name: str
    size: int
    sha256: str | None = None


class CatalogueEntry(Wire, frozen=True, kw_only=True):
    """A row of a hive's catalogue. Times are UTC seconds since the epoch."""

    id: str
    provider: str
    """`hf`, `file`, `pkg`, `ollama`, `lmstudio`, `hf-cache`, `copy`."""
    ref: str
    asked: list[str] = []
    """Other references that lead to it."""
    revision: str | None = None
    path: str
    """Of the file, or of the folder of a model of several files."""
    size: int
    digest: str | None = None
    """`sha256:` and the hash of a single file; of several, of their sorted `hash  name` lines."""
    format: str
    architecture: str | None = None
    quant: str | None = None
    context: int | None = None
    template: bool = False
    """Whether it brings a chat template."""
    capabilities: list[str] = []
    files: list[CatalogueFile] = []
    linked: bool = False
    """True: the files belong to another program or to the user; deleting it leaves them alone."""
    downloaded_at: float | None = None
    used_at: float | None = None
    verified_at: float | None = None


class HeldModel(Wire, frozen=True, kw_only=True):
    """A model of the colony: GET /v1/catalog/models."""

    model: ModelInfo
    hives: list[str]
    workers: int = 0
    """How many have it loaded now."""
    entry: CatalogueEntry | None = None
    """As the first of the hives keeps it; None for one that is not in a catalogue."""


class Spot(Wire, frozen=True, kw_only=True):
    """A place where a model could run, or why it could not: GET /v1/catalog/fits."""

    hive: str
    device: str = ""
    """Empty: it is about the whole machine."""
    memory_total: int = 0
    """Bytes, of the device."""
    fits: bool
    """It would run there, now or after others have gone."""
    here: bool
    """The hive has the model."""
    words: str
    """One sentence, as the scheduler says it."""
    action: str = ""
    """What to do about it."""
    disk: str = ""
    """Why its files would find no room on that hive's disk; empty: they would, or are there."""


class Choice(Wire, frozen=True, kw_only=True):
    """One thing of a repository that can be fetched: a quantisation, or all of its safetensors."""

    ref: str
    quant: str | None
    size: int
    files: int
    need_bytes: int | None = None
    """Memory for one usual context; with `need_at_least` its header was not looked at, and this is
    what weights and margin take, to which the context comes."""
    need_at_least: bool = False
    fits: list[str] = []
    """`hive device` where it would run now or after idle workers have gone."""
    too_big: list[str] = []
    """`hive device` where it would not."""
    here: list[str] = []
    """Hives that have it."""


class FoundModel(Wire, frozen=True, kw_only=True):
    """One repository of a search on the hub."""

    repo: str
    task: str | None
    downloads: int
    likes: int
    gated: bool
    updated_at: float | None
    format: str
    parameters: int | None = None
    choices: list[Choice] = []


class Search(Wire, frozen=True, kw_only=True):
    """GET /v1/catalog/search?q=&limit="""

    query: str
    endpoint: str
    models: list[FoundModel]


class ForeignModel(Wire, frozen=True, kw_only=True):
    """A model that another program keeps on this machine, or a file rbee does not know yet."""

    name: str
    provider: str
    """`ollama`, `lmstudio`, `hf-cache`, `file`."""
    path: str
    size: int
    format: str
    quant: str | None = None
    known_as: str | None = None
    """Its id in the catalogue when it is there already."""
    problem: str = ""
    """Why it cannot be used; empty: it can."""


class ImportBody(Request, frozen=True, kw_only=True):
    """POST /v1/models/import of a hive; paths as told by GET /v1/models/foreign, or a user's."""

    path: str
    name: str | None = None
    copy: bool = False
    """False: a hard link where the disk allows, else a reference. Never a copy unless asked."""


class GarbageReport(Wire, frozen=True, kw_only=True):
    """What was or would be cleared away. Bytes."""

    partial: list[str]
    """Begun downloads, by the model's name."""
    models: list[str]
    """Ids, the least recently used first; only with a quota."""
    orphans: list[str]
    """Files in the models folder that belong to nothing in the catalogue; told, never removed."""
    freed: int
    dry_run: bool
    kept_for_quota: int = 0
    quota: int | None = None


class Verified(Wire, frozen=True, kw_only=True):
    """What a check of a model's files found."""

    model: str
    hive: str
    files: int
    bytes: int
    hashed: int
    """How many files had a known hash; those of the others are known from now on."""
    problems: list[str] = msgspec.field(default_factory=list[str])
