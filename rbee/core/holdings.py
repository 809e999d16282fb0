"""Which hives have which models, and where on their disks.

Owns the tables from a model's key to hives and to paths, kept right at each change so that a
decision asks one of them. Never looks at a disk: what a hive lists, or was asked about, is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rbee.core.index import ModelKey
from rbee.protocol.hives import ModelInfo

if TYPE_CHECKING:
    from rbee.core.fleet import HiveState

MOST_LOCATED = 1000
"""Models of a hive that it does not list; beyond, those that were found first are forgotten."""


class Holdings:
    """Of all hives, those that are away included. Each change tells whether the colony as a whole
    has other models than before."""

    def __init__(self) -> None:
        self._hives: dict[str, dict[str, HiveState]] = {}
        self._counts: dict[ModelKey, int] = {}

    def of(self, key: str) -> Mapping[str, HiveState]:
        """The hives that have the model of this ModelInfo.key, by name."""
        return self._hives.get(key, {})

    def join(self, hive: HiveState, before: HiveState | None) -> bool:
        """A hive is new or back, with what it lists; what was located there stays known."""
        if before is not None:
            hive.located, hive.paths, hive.held = before.located, before.paths, before.held
        return self._note(hive)

    def leave(self, hive: HiveState) -> bool:
        """It belongs to the colony no more."""
        hive.located.clear()
        hive.capabilities = hive.capabilities.with_models([], 0)
        return self._note(hive)

    def listed(self, hive: HiveState, models: list[ModelInfo], disk_free: int) -> bool:
        """All models it has by now; one that it listed once and lists no more is gone, also where
        it was located by other content meanwhile: a damaged file has no digest any more."""
        gone = {m.path for m in hive.capabilities.models} - {m.path for m in models}
        for key in [key for key, model in hive.located.items() if model.path in gone]:
            del hive.located[key]
        hive.capabilities = hive.capabilities.with_models(models, disk_free)
        return self._note(hive)

    def locate(self, hive: HiveState, model: ModelInfo) -> bool:
        """It has this one too, at `model.path`, although it does not list it."""
        key = model.key
        moved = key in hive.located and hive.paths.get(key) != model.path
        if not key or ((model.id, key) in hive.held and not moved):
            return False
        hive.located[key] = model
        while len(hive.located) > MOST_LOCATED:
            del hive.located[next(iter(hive.located))]
        return self._note(hive)

    def _note(self, hive: HiveState) -> bool:
        listed = hive.capabilities.models
        for model in listed:
            hive.located.pop(model.key, None)
        known = [m for m in (*hive.located.values(), *listed) if m.key]
        paths = {model.key: model.path for model in known}
        held = {(model.id, model.key) for model in known}
        for key in hive.paths.keys() - paths.keys():
            there = self._hives[key]
            del there[hive.name]
            if not there:
                del self._hives[key]
        for key in paths:
            self._hives.setdefault(key, {})[hive.name] = hive
        changed = False
        for name in hive.held - held:
            self._counts[name] -= 1
            if not self._counts[name]:
                del self._counts[name]
                changed = True
        for name in held - hive.held:
            self._counts[name] = self._counts.get(name, 0) + 1
            changed |= self._counts[name] == 1
        hive.paths, hive.held = paths, held
        return changed
