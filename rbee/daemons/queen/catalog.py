"""The models of the colony: what its hives hold, what the hub has, what is on its way.

Puts together who finds, plans, fetches and handles models, and answers what people ask about them.
Decides nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import msgspec

from rbee.daemons.queen.finder import Finder
from rbee.daemons.queen.hubdesk import HubDesk, Plan
from rbee.daemons.queen.performing import Performing
from rbee.daemons.queen.provision import Provision
from rbee.daemons.queen.reach import check_named
from rbee.daemons.queen.transfers import Transfers
from rbee.errors import HiveNotFound, HiveOffline, InvalidRequest, ModelNotFound, RbeeError
from rbee.models import refs
from rbee.protocol.models import Choice, FoundModel, HeldModel, Search, Spot

if TYPE_CHECKING:
    from rbee.clock import Clock
    from rbee.core.colony import Colony
    from rbee.core.events import Event
    from rbee.daemons.queen.board import Board
    from rbee.daemons.queen.links import HiveLink
    from rbee.daemons.queen.metrics import Metrics
    from rbee.daemons.queen.model_links import ModelLink
    from rbee.models.hub import Hub
    from rbee.protocol.hives import ModelInfo
    from rbee.protocol.models import CatalogueEntry
    from rbee.settings import Settings

log = logging.getLogger("rbee.queen")
PATIENCE = 3.0
"""Seconds that hives get to tell what their catalogues say; a list does without the late."""
AT_ONCE = 8


def open_hub() -> Hub:
    """The hub that HF_ENDPOINT names. In a thread: it takes 300 ms of imports."""
    from rbee.models.hub import Hub

    return Hub()


class Catalog:
    """`settings` is asked anew each time; `links`: the hives that are connected. `post` puts an
    event into the brain's inbox, `call` has her handle one at once."""

    def __init__(
        self,
        *,
        settings: Callable[[], Settings],
        clock: Clock,
        colony: Colony,
        links: Mapping[str, HiveLink],
        board: Board,
        metrics: Metrics,
        post: Callable[[Event], None],
        call: Callable[[Event], Awaitable[None]],
    ) -> None:
        self._colony = colony
        self._links = links
        self._desk = HubDesk(clock, open_hub)
        self._finder = Finder(links, colony.fleet, clock, call)
        self.transfers = Transfers(
            links=links, board=board, metrics=metrics, lease=lambda: settings().hive.lease
        )
        self.provision = Provision(
            settings=settings,
            now=clock.monotonic,
            colony=colony,
            finder=self._finder,
            desk=self._desk,
            transfers=self.transfers,
            post=post,
        )
        self.performing = Performing(
            links=links,
            fleet=colony.fleet,
            finder=self._finder,
            provision=self.provision,
            transfers=self.transfers,
            post=post,
        )

    def begin(self, tasks: anyio.abc.TaskGroup) -> None:
        """Before the first question or effect: where its work is done."""
        for part in (self._desk, self.transfers, self.provision, self.performing):
            part.tasks = tasks

    # ---- what the hives hold -------------------------------------------------------------------

    def models(self) -> list[ModelInfo]:
        """Models on the hives' disks and in live workers, each name once, hidden ones last."""
        fleet = self._colony.fleet
        found = {model.id: model for model, _, _ in reversed(fleet.held_models())}
        for worker in fleet.live():
            found.setdefault(worker.model.id, worker.model)
        return sorted(found.values(), key=lambda m: (m.hidden, m.id))

    async def held(self) -> list[HeldModel]:
        """Every model with its hives, and what the first of them that answers says of it."""
        found = [
            HeldModel(model=model, hives=hives, workers=workers)
            for model, hives, workers in self._colony.fleet.held_models()
        ]
        limiter = anyio.CapacityLimiter(AT_ONCE)

        async def tell(place: int) -> None:
            async with limiter:
                entry = await self._entry(found[place])
            found[place] = msgspec.structs.replace(found[place], entry=entry)

        with anyio.move_on_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for place, one in enumerate(found):
                    if not one.model.hidden:
                        tasks.start_soon(tell, place)
        return found

    async def one(self, name: str) -> HeldModel:
        """A model by id, reference or alias. Raises ModelNotFound, and what the hives say."""
        check_named(name, self._colony.fleet)
        for model, hives, workers in self._colony.fleet.held_models():
            if name == model.id:
                held = HeldModel(model=model, hives=hives, workers=workers)
                break
        else:
            try:
                holders = await self._finder.holders(name)
            except ModelNotFound as exc:
                if not exc.details.get("hub"):
                    raise
                raise ModelNotFound(
                    f"no hive has {name}",
                    action=f"Fetch it: rbee model download {name}",
                    model=name,
                ) from exc
            model = next(iter(holders.values()))
            same = [hive for hive, other in holders.items() if other.key == model.key]
            pool = self._colony.fleet.pool(model.id, model.key)
            workers = len(pool.workers) if pool is not None else 0
            held = HeldModel(model=model, hives=same, workers=workers)
        with anyio.move_on_after(PATIENCE):
            return msgspec.structs.replace(held, entry=await self._entry(held))
        return held

    async def _entry(self, held: HeldModel) -> CatalogueEntry | None:
        for hive in held.hives:
            link = self._links.get(hive)
            if link is None:
                continue
            try:
                return await link.models.entry(held.model.id)
            except RbeeError as exc:
                log.debug("%s does not say what it has of %s: %s", hive, held.model.id, exc)
        return None

    async def spots(self, name: str) -> list[Spot]:
        """Where a model of the colony would run, and why not elsewhere. Raises ModelNotFound."""
        held = next(
            ((model, hives) for model, hives, _ in self._colony.fleet.held_models()
             if name == model.id),
            None,
        )  # fmt: skip
        if held is None:
            found = await self.one(name)
            held = found.model, found.hives
        return self.provision.spots(*held)

    def link(self, hive: str | None) -> ModelLink:
        """The models of a hive, of the only one when none is named; raises why not."""
        known = ", ".join(self._links) or "none"
        if hive is None:
            if len(self._links) != 1:
                raise InvalidRequest(f"hive: name one of {known}", action="Say which: --hive NAME")
            return next(iter(self._links.values())).models
        link = self._links.get(hive)
        if link is not None:
            return link.models
        if hive in self._colony.fleet.hives:
            raise HiveOffline(f"hive {hive} is offline")
        raise HiveNotFound.of(hive, self._colony.fleet.hives)

    # ---- what the hub has ----------------------------------------------------------------------

    async def search(self, text: str, limit: int) -> Search:
        """Repositories that the text finds, and what of them would fit where, by their sizes."""
        found = await self._desk.search(text, limit)
        models = [self._weighed(one, None) for one in found]
        return Search(query=text, endpoint=await self._desk.endpoint(), models=models)

    async def look(self, name: str) -> FoundModel:
        """One repository, by reference or alias; what fits is reckoned with its header."""
        ref = self.provision.hub_ref(name)
        found = await self._desk.repo(ref.repo)
        plan: Plan | None = None
        try:
            plan = await self._desk.plan(ref)
        except RbeeError as exc:  # such as several files of which none was named
            log.debug("the header of %s is not known: %s", ref, exc.message)
        return self._weighed(found, plan)

    def _weighed(self, found: FoundModel, plan: Plan | None) -> FoundModel:
        weigh = self.provision.weigh
        choices = [self._placed(weigh(choice, plan, found.format)) for choice in found.choices]
        return msgspec.structs.replace(found, choices=choices)

    def _placed(self, choice: Choice) -> Choice:
        """With the hives that have it."""
        try:
            ref = refs.parse(choice.ref)
        except RbeeError:
            return choice
        if not isinstance(ref, refs.HubRef):
            return choice
        name = f"{ref.repo}:{choice.quant}" if choice.quant else ref.repo
        here = [
            hive
            for model, hives, _ in self._colony.fleet.held_models()
            if model.id.partition("@")[0].casefold() == name.casefold()
            for hive in hives
        ]
        return msgspec.structs.replace(choice, here=list(dict.fromkeys(here)))
