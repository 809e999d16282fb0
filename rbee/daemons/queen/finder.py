"""What a reference means: asked of the hives, remembered while a worker serves that very model.

Owns the answers and who waits for one that is under way. All hives are asked at once, and the
brain is told where each model lies. Never guesses: without a live worker of the model the hives are
asked again, so that a file that was deleted or replaced is noticed before anything is started.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import anyio

from rbee.core.events import Event, ModelLocated
from rbee.errors import (
    HiveNotFound,
    HiveOffline,
    InternalError,
    ModelNotFound,
    NoWorkers,
    RbeeError,
    ShuttingDown,
)

if TYPE_CHECKING:
    from rbee.clock import Clock
    from rbee.core.fleet import Fleet
    from rbee.daemons.queen.links import HiveLink
    from rbee.protocol.hives import ModelInfo

log = logging.getLogger("rbee.queen")
REMEMBERED = 1000
"""Answers."""
FRESH = 30.0
"""Seconds after which an answer is asked for again: a name may mean another file by then."""
PATIENCE = 2.0
"""Seconds that the others get once one hive has answered that it has the model."""

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
    """Finds models. `links`: the hives that are connected, by name, changed by their owner; `tell`
    has the brain know at once where models are."""

    def __init__(
        self,
        links: Mapping[str, HiveLink],
        fleet: Fleet,
        clock: Clock,
        tell: Callable[[Event], Awaitable[None]] | None = None,
    ) -> None:
        self._links = links
        self._tell = tell
        self._fleet = fleet
        self._clock = clock
        self._answers: OrderedDict[_Wish, _Answer] = OrderedDict()
        self._asking: dict[_Wish, _Asking] = {}

    async def find(self, ref: str, hive: str | None = None) -> ModelInfo:
        """The model; of several that have it, as the first of the hives in order tells it.

        Raises what they say; ModelNotFound only when no hive that answers has it.
        """
        if hive is not None and hive not in self._links:
            if hive in self._fleet.hives:
                raise HiveOffline(f"hive {hive} is offline")
            raise HiveNotFound.of(hive, dict.fromkeys([*self._links, *self._fleet.hives]))
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

    async def holders(self, ref: str) -> dict[str, ModelInfo]:
        """What each hive that has it says of it, in the order of the hives. Raises as `find`."""
        asked = list(self._links.items())
        if not asked:
            raise NoWorkers("no hive is online", action="See `rbee hive list`.")
        found, failed = await self._ask_all(ref, asked)
        if not found:
            raise self._away(ref, _most_telling([failed[name] for name, _ in asked]))
        return {name: found[name] for name, _ in asked if name in found}

    def _remembered(self, wish: _Wish) -> ModelInfo | None:
        answer = self._answers.get(wish)
        if answer is None:
            return None
        model, hive, link, at = answer
        if self._links.get(hive) is not link or self._clock.monotonic() - at > FRESH:
            return None
        pool = self._fleet.pool(model.id, model.key)
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
        asked = [(name, link) for name, link in self._links.items() if hive in (None, name)]
        if not asked:
            raise NoWorkers("no hive is online", action="See `rbee hive list`.")
        found, failed = await self._ask_all(ref, asked)
        for name, link in asked:
            if name in found:
                return found[name], name, link
        raise self._away(ref, _most_telling([failed[name] for name, _ in asked]), hive)

    async def _ask_all(
        self, ref: str, asked: list[tuple[str, HiveLink]]
    ) -> tuple[dict[str, ModelInfo], dict[str, RbeeError]]:
        found: dict[str, ModelInfo] = {}
        failed: dict[str, RbeeError] = {}
        async with anyio.create_task_group() as tasks:

            async def ask(name: str, link: HiveLink) -> None:
                try:
                    model = await link.resolve(ref)
                except RbeeError as exc:
                    failed[name] = exc
                except Exception as exc:  # one hive's defect must not hide what the others have
                    log.exception("asking %s for %s failed", name, ref)
                    failed[name] = InternalError(f"{name} could not be asked for {ref}: {exc}")
                else:
                    found[name] = model
                    await self._locate(name, model)
                    tasks.cancel_scope.deadline = min(
                        tasks.cancel_scope.deadline, anyio.current_time() + PATIENCE
                    )

            for name, link in asked:
                tasks.start_soon(ask, name, link)
        return found, failed

    def _away(self, ref: str, error: RbeeError, hive: str | None = None) -> RbeeError:
        """Instead of the error that a model is missing, who has it and is offline; what is to be
        had from the hub is not waited for."""
        if not isinstance(error, ModelNotFound) or error.details.get("hub") or hive is not None:
            return error
        have = [
            name
            for model, hives, _ in self._fleet.held_models()
            if ref in (model.id, model.ref)
            for name in hives
            if name not in self._links
        ]
        if not have:
            return error
        one = "which is offline" if len(have) == 1 else "which are all offline"
        return HiveOffline(
            f"{ref} is on {', '.join(have)}, {one}",
            action=f"Switch it on; rbee hive refresh {have[0]} tries at once.",
            model=ref,
        )

    async def _locate(self, hive: str, model: ModelInfo) -> None:
        """Tell the brain what the hive does not list, such as a file outside its folder."""
        state = self._fleet.hives.get(hive)
        if self._tell is None or state is None or state.paths.get(model.key) == model.path:
            return
        with suppress(ShuttingDown):
            await self._tell(ModelLocated(hive, model))


def _most_telling(errors: list[RbeeError]) -> RbeeError:
    """Not that a model is missing, where another hive says more of it; where it is for the hub to
    say, a hive that has just gone tells nothing."""
    for exc in errors:
        if not isinstance(exc, ModelNotFound | HiveOffline):
            return exc
    missing = [exc for exc in errors if isinstance(exc, ModelNotFound)]
    hub = next((exc for exc in missing if exc.details.get("hub")), None)
    gone = next((exc for exc in errors if isinstance(exc, HiveOffline)), None)
    return hub or gone or missing[0]
