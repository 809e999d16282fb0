"""The queen's desk at the hub: what a reference means there, asked once and remembered a while.

Owns who waits for which answer, the limits of asking, and how long an answer is good. The only
place of the daemon that holds the hub's token, which it hands to nobody: `rbee.models.hub` speaks.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import anyio
import anyio.abc
import anyio.to_thread

from rbee.errors import ConnectionTimeout, InternalError, RbeeError
from rbee.models.refs import HubRef

if TYPE_CHECKING:
    from rbee.clock import Clock
    from rbee.models.hub import Hub
    from rbee.protocol.hives import ModelInfo
    from rbee.protocol.models import DownloadOrder, FoundModel

log = logging.getLogger("rbee.queen")
T = TypeVar("T")
GOOD_FOR = 600.0
"""Seconds a plan is good: addresses that expire earlier are made anew when they have."""
REMEMBERED = 200
AT_ONCE = 4
"""Threads that ask."""
LIMIT = 60.0
"""Seconds for an answer, its place in the line included."""


class Plan(NamedTuple):
    """What is to be fetched, and what is known of it before that; `model.path` is empty."""

    order: DownloadOrder
    model: ModelInfo


class _Asking:
    def __init__(self) -> None:
        self.done = anyio.Event()
        self.outcome: Plan | RbeeError | None = None


class HubDesk:
    """`tasks` is set before the first question."""

    tasks: anyio.abc.TaskGroup

    def __init__(self, clock: Clock, open_hub: Callable[[], Hub]) -> None:
        self._clock = clock
        self._open = open_hub
        self._hub: Hub | None = None
        self._limiter = anyio.CapacityLimiter(AT_ONCE)
        self._plans: OrderedDict[HubRef, tuple[Plan, float]] = OrderedDict()
        self._asking: dict[HubRef, _Asking] = {}

    async def plan(self, ref: HubRef, *, fresh: bool = False) -> Plan:
        """What the reference means; `fresh`: not what is remembered. Those who ask at once share.

        Raises Forbidden, ModelNotFound, ModelAmbiguous, RateLimited, ConnectionTimeout, BadGateway.
        """
        known = self._plans.get(ref)
        if known is not None and not fresh and self._clock.monotonic() - known[1] < GOOD_FOR:
            return known[0]
        asking = self._asking.get(ref)
        if asking is None:
            asking = self._asking[ref] = _Asking()
            self.tasks.start_soon(self._ask, ref, asking)
        await asking.done.wait()
        if isinstance(asking.outcome, RbeeError):
            raise asking.outcome
        if asking.outcome is None:
            raise InternalError(f"nobody could ask the hub about {ref}")
        return asking.outcome

    async def search(self, text: str, limit: int) -> list[FoundModel]:
        """Repositories of the hub that the text finds."""
        return await self._thread(lambda hub: hub.search(text, limit))

    async def repo(self, repo: str) -> FoundModel:
        """One repository with all that can be had of it."""
        return await self._thread(lambda hub: hub.repo(repo))

    async def endpoint(self) -> str:
        """Where the hub is."""
        return await self._thread(lambda hub: hub.endpoint)

    def forget(self, ref: HubRef) -> None:
        """Ask anew next time."""
        self._plans.pop(ref, None)

    async def _ask(self, ref: HubRef, asking: _Asking) -> None:
        at = self._clock.monotonic()
        try:
            plan = await self._thread(lambda hub: _planned(hub, ref))
            asking.outcome = plan
            self._plans[ref] = plan, at
            self._plans.move_to_end(ref)
            while len(self._plans) > REMEMBERED:
                self._plans.popitem(last=False)
        except RbeeError as exc:
            asking.outcome = exc
        except Exception as exc:
            log.exception("asking the hub about %s failed", ref)
            asking.outcome = InternalError(f"asking the hub about {ref} failed: {exc}")
        finally:
            del self._asking[ref]
            asking.done.set()

    async def _thread(self, ask: Callable[[Hub], T]) -> T:
        with anyio.move_on_after(LIMIT):
            return await anyio.to_thread.run_sync(
                lambda: ask(self._opened()), limiter=self._limiter, abandon_on_cancel=True
            )
        raise ConnectionTimeout(
            f"the hub has not answered within {LIMIT:g} s",
            action="Check the network and HF_ENDPOINT, then ask again.",
        )

    def _opened(self) -> Hub:
        if self._hub is None:
            self._hub = self._open()
        return self._hub


def _planned(hub: Hub, ref: HubRef) -> Plan:
    order = hub.order(ref, str(ref))
    return Plan(order, hub.look(order))
