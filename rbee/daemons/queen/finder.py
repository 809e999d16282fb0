"""What a reference means: asked of the hives, remembered while a worker serves that very model.

Owns the answers and who waits for one that is under way. Never guesses: without a live worker of
the model the hive is asked again, so that a file that was deleted or replaced is noticed before
anything is started.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import anyio

from rbee.errors import HiveNotFound, HiveOffline, ModelNotFound, NoWorkers, RbeeError

if TYPE_CHECKING:
    from rbee.clock import Clock
    from rbee.core.fleet import Fleet
    from rbee.daemons.queen.links import HiveLink
    from rbee.protocol.hives import ModelInfo

REMEMBERED = 1000
"""Answers."""
FRESH = 30.0
"""Seconds after which an answer is asked for again: a name may mean another file by then."""

_Wish = tuple[str, str | None]
"""A reference and the hive it is pinned to."""


class _Answer(NamedTuple):
    model: ModelInfo
    hive: str
    link: HiveLink
    at: float
    """Monotonic seconds when it was asked for."""


class _Asking:
    """One under way; without an `outcome` whoever asked was cancelled."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.outcome: ModelInfo | RbeeError | None = None


class Finder:
    """Finds models. `links`: the hives that are connected, by name, changed by their owner."""

    def __init__(self, links: Mapping[str, HiveLink], fleet: Fleet, clock: Clock) -> None:
        self._links = links
        self._fleet = fleet
        self._clock = clock
        self._answers: OrderedDict[_Wish, _Answer] = OrderedDict()
        self._asking: dict[_Wish, _Asking] = {}

    async def find(self, ref: str, hive: str | None = None) -> ModelInfo:
        """The model; of several hives the first that has it answers. Raises what they say."""
        if hive is not None and hive not in self._links:
            if hive in self._fleet.hives:
                raise HiveOffline(f"hive {hive} is offline")
            known = ", ".join(self._links) or "none"
            raise HiveNotFound(
                f"no hive named {hive!r} was added (known: {known})",
                action=f"Use one of: {known}, or leave the hive out.",
            )
        wish = (ref, hive)
        while True:
            model = self._remembered(wish)
            if model is not None:
                return model
            under_way = self._asking.get(wish)
            if under_way is None:
                return await self._ask_for_all(wish)
            await under_way.done.wait()
            if isinstance(under_way.outcome, RbeeError):
                raise under_way.outcome
            if under_way.outcome is not None:
                return under_way.outcome

    def _remembered(self, wish: _Wish) -> ModelInfo | None:
        answer = self._answers.get(wish)
        if answer is None:
            return None
        model, hive, link, at = answer
        if self._links.get(hive) is not link or self._clock.monotonic() - at > FRESH:
            return None
        pool = self._fleet.pool(model.id, model.path)
        if pool is None or (wish[1] is not None and not pool.hives.get(wish[1])):
            return None
        return model

    async def _ask_for_all(self, wish: _Wish) -> ModelInfo:
        """Those that come meanwhile share the outcome."""
        asking = self._asking[wish] = _Asking()
        self._answers.pop(wish, None)
        at = self._clock.monotonic()
        try:
            model, hive, link = await self._ask(*wish)
            self._answers[wish] = _Answer(model, hive, link, at)
            while len(self._answers) > REMEMBERED:
                self._answers.popitem(last=False)
            asking.outcome = model
            return model
        except RbeeError as exc:
            asking.outcome = exc
            raise
        finally:
            del self._asking[wish]
            asking.done.set()

    async def _ask(self, ref: str, hive: str | None) -> tuple[ModelInfo, str, HiveLink]:
        failure: RbeeError | None = None
        for name, link in list(self._links.items()):
            if hive in (None, name):
                try:
                    return await link.resolve(ref), name, link
                except RbeeError as exc:
                    if failure is None or isinstance(failure, ModelNotFound):
                        failure = exc
        raise failure or NoWorkers("no hive is online", action="See `rbee hive list`.")
