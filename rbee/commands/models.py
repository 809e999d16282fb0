"""`rbee model list|show|aliases`: the models of the colony, and the short names for some.

Owns how a model is told; changes nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from rbee.client import QueenClient
from rbee.commands import searching
from rbee.commands.common import ask, settings_and_paths
from rbee.commands.places import check_hive, named
from rbee.commands.tables import clip, room, table
from rbee.errors import InvalidRequest, ModelNotFound
from rbee.model_words import PROVIDERS, count
from rbee.models import refs
from rbee.models.aliases import TABLE
from rbee.narration import printable
from rbee.output import duration, moment, print_json, size
from rbee.protocol.base import Wire, convert
from rbee.protocol.hives import HiveInfo, ModelInfo
from rbee.protocol.models import CatalogueEntry, FoundModel, HeldModel
from rbee.protocol.operations import ModelName
from rbee.settings import Settings

_LABEL = 14
_INDENT = "  "


class Memory(Wire, frozen=True, kw_only=True):
    """Whether a model fits a device at the usual context, one request at a time. Bytes."""

    hive: str
    device: str
    context: int
    need: int
    free: int
    total: int

    @property
    def verdict(self) -> str:
        """One word or two."""
        if self.need <= self.free:
            return "fits"
        return "fits when other work has ended" if self.need <= self.total else "too big"


def check_model(name: str) -> None:
    """Raises InvalidRequest for what can be no model's name, before a queen is started."""
    try:
        name.encode()
        convert(name, ModelName)  # pyright: ignore[reportArgumentType]
    except (InvalidRequest, UnicodeError) as exc:
        raise InvalidRequest(
            f"{printable(name)[:80]!r} is no model's name",
            action="`rbee model list` shows the models there are.",
        ) from exc


def listing(*, everything: bool, hive: str | None, as_json: bool) -> int:
    """`rbee model list`"""
    check_hive(hive)

    async def read(queen: QueenClient) -> tuple[list[HeldModel], list[HiveInfo]]:
        hives = await queen.hives()
        if hive is not None:
            named(hives, hive)
        return await queen.models(), hives

    all_of_them, hives = ask(read)
    found = [
        held
        for held in all_of_them
        if (everything or not held.model.hidden) and (hive is None or hive in held.hives)
    ]
    if as_json:
        print_json({"models": found})
    elif not found:
        where = f" on {hive}" if hive else ""
        sys.stderr.write(
            f"No models{where} yet. `rbee model search smollm2` looks on the hub,"
            " `rbee model download smollm2-360m` fetches a small one,\n"
            "`rbee model import` shows what other programs keep on this machine; a file of yours"
            " is used as --model file:/path/to/model.gguf.\n"
        )
    else:
        off = {one.name for one in hives if not one.online}
        sys.stdout.write("\n".join(listed(found, off, width=room(), now=time.time())) + "\n")
    return 0


def listed(
    found: Sequence[HeldModel], off: Collection[str] = (), *, width: int | None, now: float
) -> list[str]:
    """The table. `off`: the hives that are not online. `now`: UTC seconds."""
    rows = [
        [
            held.model.id,
            held.model.quant or "·",
            size(held.model.size),
            str(held.model.context or "·"),
            ", ".join(f"{name} (off)" if name in off else name for name in held.hives) or "·",
            _loaded(held.workers),
            _ago(held.entry.used_at if held.entry else None, now),
        ]
        for held in found
    ]
    columns = ["model", "quant", "size", "context", "hives", "loaded", "used"]
    return table(columns, rows, width=width)


def show(name: str, *, as_json: bool) -> int:
    """`rbee model show MODEL`: one that is here, else as the hub has it."""
    check_model(name)
    settings, _ = settings_and_paths()

    async def read(queen: QueenClient) -> tuple[HeldModel | FoundModel, list[HiveInfo]]:
        try:
            return await queen.model(name), await queen.hives()
        except ModelNotFound:
            if not _of_the_hub(name, settings):
                raise
        return await queen.look(name), []

    found, hives = ask(read)
    if isinstance(found, FoundModel):
        _show_found(found, as_json=as_json)
        return 0
    memory = needs(found.model, hives, settings)
    if as_json:
        body: dict[str, Any] = msgspec.to_builtins(found)
        told = [msgspec.to_builtins(one) | {"verdict": one.verdict} for one in memory]
        print_json(body | {"memory": told})
    else:
        sys.stdout.write("\n".join(shown(found, memory, width=room())) + "\n")
    return 0


def shown(held: HeldModel, memory: Sequence[Memory], *, width: int | None) -> list[str]:
    """All of a model, in sections."""
    model, entry = held.model, held.entry
    out = [printable(model.id), "", "what it is"]
    out += _fields(_what(model, entry))
    out += ["", "where it is"]
    out += _fields(_where(held))
    if entry is not None and entry.files:
        rows = [[f.name, size(f.size), f.sha256 or "no hash known"] for f in entry.files]
        lines = table(["name", "size", "sha256"], rows, width=None if width is None else width - 2)
        out += ["", "files", *(clip(_INDENT + line, width) for line in lines)]
    if memory:
        tokens = memory[0].context
        out += ["", f"memory, for one request with a context of {tokens} tokens"]
        rows = [
            [f"{m.hive} {m.device}", size(m.need), size(m.free), size(m.total), m.verdict]
            for m in memory
        ]
        lines = table(["device", "needs", "free", "of", "so it"], rows)
        out += [clip(_INDENT + line, width) for line in lines]
    out += ["", f'rbee infer --model {printable(model.id)} "…"']
    return out


def needs(model: ModelInfo, hives: Sequence[HiveInfo], settings: Settings) -> list[Memory]:
    """For each device of each hive that is online."""
    if not model.weights_bytes:
        return []
    ctx = settings.worker.ctx
    return [
        Memory(
            hive=hive.name,
            device=device.name,
            context=ctx,
            need=model.memory_needed(
                ctx=ctx,
                slots=1,
                kv_type=settings.worker.kv_type,
                device_kind=device.kind,
                flash=settings.worker.flash_attention != "off",
            ),
            free=device.memory_free,
            total=device.memory_total,
        )
        for hive in hives
        if hive.online
        for device in hive.devices
    ]


def aliases(*, as_json: bool) -> int:
    """`rbee model aliases`: asks no queen."""
    settings, _ = settings_and_paths()
    mine = settings.models.aliases
    found = [
        {"name": name, "ref": alias.ref, "about": alias.about, "origin": "built in"}
        for name, alias in TABLE.items()
        if name not in mine
    ]
    found += [
        {"name": name, "ref": ref, "about": "", "origin": "settings"} for name, ref in mine.items()
    ]
    if as_json:
        print_json({"aliases": found})
        return 0
    rows = [[one["name"], one["about"] or "yours", one["ref"]] for one in found]
    lines = table(["name", "what it is", "stands for"], rows, width=room())
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _show_found(found: FoundModel, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    sys.stderr.write("rbee: no hive has it; this is how the hub has it\n")
    sys.stdout.write("\n".join(searching.repository(found, width=room())) + "\n")


def _of_the_hub(name: str, settings: Settings) -> bool:
    try:
        return isinstance(refs.parse(name, settings.models.aliases), refs.HubRef)
    except (InvalidRequest, ModelNotFound):
        return False


def _what(model: ModelInfo, entry: CatalogueEntry | None) -> list[tuple[str, str]]:
    parameters = f", {count(model.parameters)} parameters" if model.parameters else ""
    quant = f", {model.quant}" if model.quant else ""
    template = ", with a chat template" if entry is not None and entry.template else ""
    out = [
        ("kind", f"{model.architecture or 'not told'}{parameters}"),
        ("format", f"{model.format}{quant}, {size(model.size)}"),
        ("context", f"{model.context} tokens" if model.context else "not told"),
        ("does", f"{', '.join(model.capabilities) or 'not told'}{template}"),
        ("reference", model.ref),
    ]
    if entry is not None:
        also = [name for name in entry.asked if name not in (model.ref, model.id)]
        out += [
            ("also called", ", ".join(also)),
            ("came from", PROVIDERS.get(entry.provider, entry.provider)),
            ("revision", entry.revision or ""),
            ("fetched", moment(entry.downloaded_at) if entry.downloaded_at else ""),
            ("used", moment(entry.used_at) if entry.used_at else ""),
            ("verified", moment(entry.verified_at) if entry.verified_at else ""),
        ]
    return [*out, ("digest", model.digest or "")]


def _where(held: HeldModel) -> list[tuple[str, str]]:
    out = [("hives", ", ".join(held.hives) or "none that is online")]
    if held.entry is not None:
        whose = " (another program's or yours: deleting it here leaves it)"
        out.append(("path", f"{held.entry.path}{whose if held.entry.linked else ''}"))
    elif held.model.path:
        out.append(("path", held.model.path))
    return [*out, ("loaded", _loaded(held.workers, none="by no worker"))]


def _fields(pairs: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{_INDENT}{key:<{_LABEL}}{printable(value)}" for key, value in pairs if value]


def _loaded(workers: int, *, none: str = "·") -> str:
    return f"{workers} worker{'s'[: workers > 1]}" if workers else none


def _ago(then: float | None, now: float) -> str:
    return f"{duration(max(0.0, now - then))} ago" if then else "·"
