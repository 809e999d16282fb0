"""Models as rows and as facts: what the Models screen writes.

Pure functions from what the queen tells to rows and lines; layout and keys belong to the screen.
Sizes of files are decimal, as hubs and disks tell them; memory is in GiB, as the scheduler does.
"""

from __future__ import annotations

import shlex
from collections.abc import Container, Sequence
from dataclasses import dataclass

from rbee.model_words import PROVIDERS, count
from rbee.output import moment, size
from rbee.protocol.hives import ModelInfo
from rbee.protocol.models import CatalogueEntry, DownloadInfo, HeldModel, Spot
from rbee.protocol.workers import WorkerInfo, WorkerState
from rbee.tui.glyphs import Glyphs, duration, total_gib
from rbee.tui.rows import model_name, worker_state
from rbee.tui.rows_workers import LIVING
from rbee.tui.store import ColonyStore
from rbee.tui.texts import fact, wrapped
from rbee.tui.widgets.lines import Line
from rbee.tui.widgets.table import Column, Row

COLUMNS = (
    Column("model", "model", 24, grow=True, least=16),
    Column("kind", "kind", 7),
    Column("format", "format", 13),
    Column("size", "size", 7),
    Column("where", "where", 15, grow=True, least=8),
    Column("workers", "workers", 8, least=3),
    Column("context", "context", 8, extra=True),
    Column("used", "used", 8, extra=True),
)
FILES = 12
"""Files of a model that are listed."""
_KINDS = {"embedding": "embed", "embed": "embed", "audio": "audio", "chat": "chat"}


@dataclass(frozen=True)
class Item:
    """A row of the library: a model that is held, or one that only comes."""

    key: str
    held: HeldModel
    workers: tuple[WorkerInfo, ...] = ()
    coming: tuple[DownloadInfo, ...] = ()

    @property
    def model(self) -> ModelInfo:
        """The model."""
        return self.held.model


def items(held: Sequence[HeldModel], store: ColonyStore) -> list[Item]:
    """What the hives hold, each with its workers and with what brings it elsewhere; then what only
    comes. The key is the model's id, with its hives where two models have one id."""
    living = [worker for worker in store.worker_list() if worker.state in LIVING]
    coming = list(store.downloads.values())
    out: dict[str, Item] = {}
    for one in held:
        model = one.model
        if model.hidden:
            continue
        key = model.id if model.id not in out else f"{model.id} ({', '.join(one.hives)})"
        workers = tuple(worker for worker in living if worker.model == model.id)
        brought = tuple(each for each in coming if each.model_id == model.id)
        out[key] = Item(key, one, workers, brought)
    for info in coming:
        if info.model_id not in out:
            here = tuple(each for each in coming if each.model_id == info.model_id)
            held_nowhere = HeldModel(model=_told(info), hives=[])
            out[info.model_id] = Item(info.model_id, held_nowhere, (), here)
    return list(out.values())


def _told(info: DownloadInfo) -> ModelInfo:
    """As much of a model as its transfer tells."""
    quant = info.model_id.rpartition(":")[2] if ":" in info.model_id else None
    return ModelInfo(
        id=info.model_id,
        ref=info.ref,
        path="",
        format="gguf" if quant else "",
        size=info.bytes_total,
        quant=quant,
    )


def row(item: Item, store: ColonyStore, glyphs: Glyphs) -> Row:
    """A model as a row."""
    model, held = item.model, item.held
    loading = any(worker.state is WorkerState.LOADING for worker in item.workers)
    if (item.coming and not held.hives) or loading:
        mark = (glyphs.loading, "warn")
    elif item.workers:
        mark = (glyphs.ready, "ok")
    else:
        mark = (glyphs.offline, "muted")
    used = held.entry.used_at if held.entry is not None else None
    context = model.context
    return Row(
        key=item.key,
        mark=mark,
        command=f"rbee model show {shlex.quote(model.id)}",
        cells={
            "model": (short(model), "strong"),
            "kind": (kind(model, held.entry) or glyphs.na, "text"),
            "format": (form(model) or glyphs.na, "text"),
            "size": (gigabytes(model.size), "text"),
            "where": (where(item, store, glyphs), "name"),
            "workers": (str(len(item.workers)), "text" if item.workers else "muted"),
            "context": (str(context) if context else glyphs.na, "muted"),
            "used": (ago(used, store.clock()) or glyphs.na, "muted"),
        },
    )


def short(model: ModelInfo) -> str:
    """Its name without what the column beside it says."""
    name = model_name(model.id)
    tail = f":{model.quant}" if model.quant else ""
    return name.removesuffix(tail) if tail else name


def kind(model: ModelInfo, entry: CatalogueEntry | None) -> str:
    """`chat`, `embed`, `audio`, `text` (it has no chat template); empty: that is not told."""
    for one in model.capabilities:
        if one in _KINDS:
            return _KINDS[one]
        if one == "text-gen":
            return "chat" if entry is None or entry.template else "text"
    return model.capabilities[0] if model.capabilities else ""


def form(model: ModelInfo) -> str:
    """`gguf q4_k_m`, `safetensors`"""
    return f"{model.format} {(model.quant or '').lower()}".strip()


def gigabytes(count_of_bytes: int) -> str:
    """`19.8G`, `0.09G`: a unit for all, so that the column sorts."""
    value = count_of_bytes / 1e9
    return f"{value:.1f}G" if value >= 0.995 else f"{value:.2f}G"


def where(item: Item, store: ColonyStore, glyphs: Glyphs) -> str:
    """Its hives, and those it is on its way to."""
    names = [
        name if name in store.hives and store.hives[name].online else f"{name} {glyphs.offline}"
        for name in item.held.hives
    ]
    names += [f"{glyphs.arrow} {info.hive}" for info in item.coming]
    return ", ".join(names) or glyphs.na


def ago(then: float | None, now: float) -> str:
    """How long ago; empty: never, or not known."""
    return duration(now - then) if then else ""


def detail_lines(
    item: Item,
    spots: Sequence[Spot] | None,
    trouble: str,
    store: ColonyStore,
    glyphs: Glyphs,
    width: int,
) -> list[Line]:
    """All of a model. `spots`: where it would run, None: that is being asked; `trouble`: why that
    is not known."""
    model, entry = item.model, item.held.entry
    dot = f" {glyphs.dot} "
    lines: list[Line] = [((f" {each}", "strong"),) for each in wrapped(model.id, width - 2)]
    head = [kind(model, entry), model.architecture or ""]
    head += [f"{count(model.parameters)} parameters" if model.parameters else ""]
    head += [f"ctx {model.context}" if model.context else ""]
    files = [form(model), size(model.size), _digest(model, glyphs)]
    for words in (head, files):
        told = dot.join(word for word in words if word)
        lines += [((f" {each}", "text"),) for each in wrapped(told, width - 2) if told]
    lines += _facts(item, store, glyphs, width)
    lines += [(), *_spot_lines(item, spots, trouble, glyphs, width)]
    lines += _used_by(item, glyphs, width)
    if entry is not None and entry.files:
        lines += [(), ((" Files", "strong"),)]
        for file in entry.files[:FILES]:
            hashed = f"  {file.sha256[:12]}{glyphs.more}" if file.sha256 else ""
            text = f"{file.name}  {size(file.size)}{hashed}"
            lines += [((f"   {each}", "text"),) for each in wrapped(text, width - 4)]
        more = len(entry.files) - FILES
        if more > 0:
            lines.append(((f"   and {more} more", "muted"),))
    return lines


def _digest(model: ModelInfo, glyphs: Glyphs) -> str:
    kind, _, text = (model.digest or "").partition(":")
    return f"{kind} {text[:8]}{glyphs.more}" if text else ""


def _facts(item: Item, store: ColonyStore, glyphs: Glyphs, width: int) -> list[Line]:
    model, entry = item.model, item.held.entry
    facts = [("where", where(item, store, glyphs)), ("reference", model.ref)]
    if entry is not None:
        also = [name for name in entry.asked if name not in (model.ref, model.id)]
        facts += [
            ("also", ", ".join(also)),
            ("from", PROVIDERS.get(entry.provider, entry.provider)),
            ("revision", entry.revision or ""),
            ("fetched", moment(entry.downloaded_at) if entry.downloaded_at else ""),
            ("used", f"{ago(entry.used_at, store.clock())} ago" if entry.used_at else "never"),
            ("verified", moment(entry.verified_at) if entry.verified_at else ""),
            ("path", entry.path),
        ]
        if entry.linked:
            facts.append(("", "another program's or yours: deleting it here leaves the files"))
    elif model.path:
        facts.append(("path", model.path))
    return [line for name, value in facts if value for line in fact(name, value, width, column=10)]


def _spot_lines(
    item: Item, spots: Sequence[Spot] | None, trouble: str, glyphs: Glyphs, width: int
) -> list[Line]:
    lines: list[Line] = [((" Fits on", "strong"),)]
    if spots is None:
        words = trouble or ("it comes first" if not item.held.hives else "asking the queen")
        return lines + [((f"   {each}", "muted"),) for each in wrapped(words, width - 4)]
    for spot in spots:
        sign = (glyphs.done, "ok") if spot.fits else (glyphs.failed, "bad")
        room = f"  {total_gib(spot.memory_total)}G" if spot.memory_total else ""
        lines.append(
            (("   ", "text"), sign, (f" {spot.hive} {spot.device}".rstrip(), "name"),
             (room, "muted"), ("" if spot.here else "  not there yet", "muted"))
        )  # fmt: skip
        said = [spot.words, spot.action if not spot.fits else "", spot.disk]
        for words in said:
            role = "text" if words is spot.words and spot.fits else "muted"
            lines += [((f"     {each}", role),) for each in wrapped(words, width - 6) if words]
    if not spots:
        lines.append((("   no machine is online", "muted"),))
    return lines


def _used_by(item: Item, glyphs: Glyphs, width: int) -> list[Line]:
    if not item.workers:
        return []
    lines: list[Line] = [(), ((" Used by", "strong"),)]
    for worker in item.workers:
        sign, word = worker_state(worker, glyphs)
        text = f" {worker.worker_id} {worker.hive} {worker.device}  {word}"
        lines.append((("   ", "text"), sign, (glyphs.clip(text, width - 5), "text")))
    return lines


def fitting(spots: Sequence[Spot], hive: str) -> tuple[bool, str]:
    """Whether a model would run on a hive, and one sentence: of the place that is best for it."""
    mine = [spot for spot in spots if spot.hive == hive]
    best = next((spot for spot in mine if spot.fits), None) or (mine[0] if mine else None)
    if best is None:
        return False, "it does not say what it has"
    where_to = f"{best.device}: " if best.device and best.fits else ""
    words = f"{where_to}{best.words}"
    return best.fits and not best.disk, f"{words}. {best.disk}" if best.disk else words


def without(hives: Sequence[str], store: ColonyStore) -> list[str]:
    """Machines that are online and are not among these."""
    taken: Container[str] = set(hives)
    return [hive.name for hive in store.hive_list() if hive.online and hive.name not in taken]
