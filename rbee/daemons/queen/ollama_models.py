"""The models in Ollama's words: what there is, what one is, what is loaded.

Owns the form of tags, show and ps. Sizes are bytes. A digest is that of the content where a hive
knows it, else one of where the file lies: the same as long as that is.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

from rbee.daemons.queen import openai_models
from rbee.daemons.queen.ollama_names import told
from rbee.daemons.queen.ollama_replies import stamp_of
from rbee.protocol.workers import WorkerState

if TYPE_CHECKING:
    from rbee.daemons.queen.queen import Queen
    from rbee.protocol.hives import ModelInfo
    from rbee.protocol.models import HeldModel

CENTURY = 100 * 365 * 86400.0
READY = (WorkerState.IDLE, WorkerState.BUSY)


async def tags(queen: Queen) -> dict[str, Any]:
    """All that can be named: ids and the aliases that lead to one."""
    held = {one.model.id: one for one in await queen.catalog.held()}
    models: list[dict[str, Any]] = []
    for name, model in openai_models.named(queen).items():
        one = held.get(model.id)
        models.append(
            {
                **_named(name, model),
                "modified_at": stamp_of(_changed(queen, one)),
                "size": model.size,
            }
        )
    return {"models": models}


async def shown(queen: Queen, name: str) -> dict[str, Any]:
    """One of them; `name` as it is meant here. Raises ModelNotFound."""
    found = await queen.catalog.one(name)
    model, family = found.model, found.model.architecture or "unknown"
    context = _context(queen, model)
    info: dict[str, Any] = {"general.architecture": family, "general.basename": model.id}
    if model.parameters is not None:
        info["general.parameter_count"] = model.parameters
    if context is not None:
        info[f"{family}.context_length"] = context
    return {
        "modelfile": f"FROM {model.id}\n",
        "parameters": "" if context is None else f"num_ctx {context}",
        "template": "",
        "details": _details(model),
        "model_info": info,
        "capabilities": _abilities(model),
        "modified_at": stamp_of(_changed(queen, found)),
    }


def loaded(queen: Queen) -> dict[str, Any]:
    """Workers that are ready, each a model of its own."""
    fleet, limits = queen.colony.fleet, queen.colony.limits
    mono, now = queen.clock.monotonic(), queen.clock.utc()
    models: list[dict[str, Any]] = []
    for worker in list(fleet.workers.values()):
        info = worker.info(mono)
        if info.state not in READY:
            continue
        keep = math.inf if worker.pinned else limits.keep_alive_of(worker.model.id)
        left = min(keep, CENTURY) - info.idle_seconds
        models.append(
            {
                **_named(worker.model.id, worker.model),
                "size": info.memory_bytes,
                "size_vram": 0 if info.device == "cpu" else info.memory_bytes,
                "expires_at": stamp_of(now + max(0.0, left)),
                "context_length": info.ctx,
            }
        )
    return {"models": models}


def _named(name: str, model: ModelInfo) -> dict[str, Any]:
    return {
        "name": told(name),
        "model": told(name),
        "digest": _digest(model),
        "details": _details(model),
    }


def _details(model: ModelInfo) -> dict[str, Any]:
    family = model.architecture or "unknown"
    return {
        "parent_model": "",
        "format": model.format,
        "family": family,
        "families": [family],
        "parameter_size": _amount(model.parameters),
        "quantization_level": model.quant or "unknown",
    }


def _digest(model: ModelInfo) -> str:
    if model.digest is not None:
        return model.digest.removeprefix("sha256:")
    return hashlib.sha256(model.key.encode("utf-8", "surrogateescape")).hexdigest()


def _changed(queen: Queen, held: HeldModel | None) -> float:
    at = held.entry.downloaded_at if held is not None and held.entry is not None else None
    return queen.started_at if at is None else at


def _context(queen: Queen, model: ModelInfo) -> int | None:
    """Tokens that a conversation may really have: what a worker has, else what one would get."""
    live = [w.ctx for w in queen.colony.fleet.live() if w.model.id == model.id and w.ctx]
    if live:
        return max(live)
    return min(queen.settings.worker.ctx, model.context) if model.context else None


def _abilities(model: ModelInfo) -> list[str]:
    if model.embeds:
        return ["embedding"]
    able = ["completion"]
    return [*able, "tools"] if model.tools else able


def _amount(parameters: int | None) -> str:
    """`134.5M`, `8.0B`; empty when it is not known."""
    if not parameters:
        return ""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= size:
            return f"{parameters / size:.1f}{letter}"
    return str(parameters)
