"""The models in OpenAI's words: what a request may name, and which hives have it.

Owns which names are listed: the ids of all models on the hives' disks or in live workers, and the
aliases that lead to one of them. What a name means is the catalogue's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rbee.errors import ModelNotFound, RbeeError
from rbee.models import refs

if TYPE_CHECKING:
    from rbee.daemons.queen.queen import Queen
    from rbee.protocol.hives import ModelInfo


def listed(queen: Queen) -> list[dict[str, Any]]:
    """All of them but those that are for tests, ids first."""
    return [_model(queen, name, model) for name, model in named(queen).items()]


def named(queen: Queen) -> dict[str, ModelInfo]:
    """The models by each of their names, ids first."""
    models = [model for model in queen.catalog.models() if not model.hidden]
    found = {model.id: model for model in models}
    table: Mapping[str, str] = {**refs.ALIASES, **queen.settings.models.aliases}
    for alias, target in table.items():
        model = meant(target, models)
        if model is not None:
            found.setdefault(alias, model)
    return found


def one(queen: Queen, name: str) -> dict[str, Any] | None:
    """A model by one of those names, or by that of a hidden model; None: there is none."""
    known = named(queen).get(name)
    if known is None:
        known = next((model for model in queen.catalog.models() if model.id == name), None)
    return None if known is None else _model(queen, name, known)


def missing(name: str) -> ModelNotFound:
    """The error for a name that is none of them."""
    return ModelNotFound(
        f"no model {name[:120]!r} in this colony",
        action="GET /v1/models shows those there are.",
    )


def _model(queen: Queen, name: str, model: ModelInfo) -> dict[str, Any]:
    fleet = queen.colony.fleet
    hives = [
        hive for held, hives, _ in fleet.held_models() if held.id == model.id for hive in hives
    ]
    hives += [worker.hive for worker in fleet.live() if worker.model.id == model.id]
    return {
        "id": name,
        "object": "model",
        "created": int(queen.started_at),
        "owned_by": ",".join(dict.fromkeys(hives)) or "rbee",
    }


def meant(target: str, models: list[ModelInfo]) -> ModelInfo | None:
    """The model among these that an alias leads to."""
    try:
        ref = refs.parse(target)
    except RbeeError:
        return None
    for model in models:
        if str(ref) == model.ref:
            return model
        if not isinstance(ref, refs.HubRef) or ref.revision is not None:
            continue
        repo, _, quant = model.id.partition("@")[0].partition(":")
        if repo.casefold() == ref.repo.casefold() and ref.quant in (None, quant):
            return model
    return None
