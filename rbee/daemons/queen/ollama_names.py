"""Names of models as Ollama has them, `name:tag`, and what they mean here.

    smollm2-135m, smollm2-135m:latest    the id or alias of that name
    qwen3:4b, llama3.2:1b                the alias spelt so but for `-` and `:` (llama-3.2-1b)
    hf.co/org/repo, hf.co/org/repo:Q8_0  hf:org/repo, hf:org/repo:Q8_0
and every reference and id as it is. Owns the mapping only; another model is never taken instead.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import msgspec

from rbee.errors import InvalidRequest, ModelNotFound, RbeeError
from rbee.models import refs
from rbee.protocol.operations import ModelWork, Operation

if TYPE_CHECKING:
    from rbee.daemons.queen.queen import Queen

LATEST = ":latest"
HUBS = ("hf.co/", "huggingface.co/")


def told(name: str) -> str:
    """An id or alias as a name with a tag."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST


def meant(name: str, ids: Collection[str], aliases: Mapping[str, str]) -> str:
    """The reference, id or alias. Raises ModelNotFound for a name that cannot be one.

    `ids` of models that are there; `aliases` of the settings, on top of the built-in ones.
    """
    known = {*refs.ALIASES, *aliases, *ids}
    plain = name.removesuffix(LATEST)
    for one in (name, plain):
        if one in known:
            return one
    for hub in HUBS:
        if plain.startswith(hub):
            return f"hf:{plain.removeprefix(hub)}"
    if "/" not in plain and plain.count(":") == 1:
        alike = [one for one in sorted({*refs.ALIASES, *aliases}) if _bare(one) == _bare(plain)]
        if len(alike) == 1:
            return alike[0]
    try:
        refs.parse(plain, aliases)
    except ModelNotFound:
        pass
    except InvalidRequest as exc:
        if plain.partition(":")[0] in ("hf", "pkg", "file"):
            raise
        raise refs.unknown(name, {*refs.ALIASES, *aliases}) from exc
    return plain


def meant_by(queen: Queen, name: str) -> str:
    """The same, with what this colony has."""
    ids = {model.id for model in queen.catalog.models()}
    return meant(name, ids, queen.settings.models.aliases)


def named(queen: Queen, operation: Operation) -> Operation:
    """The operation with its model's name as it is meant, for programs that take a name from
    Ollama's lists and ask in another dialect. A name that means nothing stays as it is."""
    if not isinstance(operation, ModelWork) or ":" not in operation.model:
        return operation
    try:
        model = meant_by(queen, operation.model)
    except RbeeError:
        return operation
    return msgspec.structs.replace(operation, model=model)


def _bare(name: str) -> str:
    return name.casefold().replace("-", "").replace(":", "")
