"""Models on their way and what else is done with them: jobs and transfers as one list.

Pure: takes what the screens know of both and says how each stands. How it looks is `rows_models`'s,
what a key does to it the screen's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rbee.errors import RbeeError
from rbee.protocol.jobs import JobInfo, JobState
from rbee.protocol.models import DownloadInfo, TransferState
from rbee.tui.store import ACTIVE_JOBS, ColonyStore

VERBS = {
    "model_download": "download",
    "model_copy": "copy",
    "model_verify": "verify",
    "model_delete": "delete",
}
"""Operations on models that this is about."""
KEPT_SECONDS = 600.0
"""What has ended well, or was cancelled, is shown for so long."""
MOST_ENDED = 20


class Stand(StrEnum):
    """How far something is."""

    WAITING = "waiting"
    RUNNING = "running"
    CHECKING = "checking"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Tale:
    """What a job's own stream says at its end."""

    error: RbeeError | None = None
    result: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Carriage:
    """One of them. Bytes; `rate` bytes per second; `jobs`: whom cancelling concerns."""

    key: str
    verb: str
    model: str
    hive: str
    stand: Stand
    jobs: tuple[str, ...]
    done: int = 0
    total: int = 0
    rate: float = 0.0
    eta: float | None = None
    message: str = ""
    own: bool = True
    """False: it is fetched for jobs that need the model, such as a question."""
    error: RbeeError | None = None
    result: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def active(self) -> bool:
        """Whether it can be cancelled."""
        return self.stand in (Stand.WAITING, Stand.RUNNING, Stand.CHECKING)

    @property
    def repeatable(self) -> bool:
        """Whether its job can be asked again."""
        failed = self.stand is Stand.FAILED and self.error is not None
        return self.own and (failed or self.stand is Stand.CANCELLED)


def carriages(
    store: ColonyStore, tales: Mapping[str, Tale], put_away: Collection[str]
) -> list[Carriage]:
    """Those under way, then those that failed, then the last that ended; `put_away`: job ids that
    are not to be shown any more."""
    jobs = [job for job in store.jobs.values() if job.operation in VERBS]
    again = {job.retry_of for job in jobs if job.retry_of}
    infos = {job: info for info in store.downloads.values() for job in info.jobs}
    active = [_active(job, infos.get(job.job_id)) for job in jobs if job.state in ACTIVE_JOBS]
    claimed = {job.job_id for job in jobs}
    active += [
        _for_others(info) for info in store.downloads.values() if not claimed & set(info.jobs)
    ]
    ended = [
        job
        for job in jobs
        if job.state not in ACTIVE_JOBS
        and job.job_id not in put_away
        and job.job_id not in again
        and (job.state is JobState.FAILED or _fresh(job, store.clock()))
    ]
    ended.sort(key=lambda job: (job.state is not JobState.FAILED, -(job.finished_at or 0.0)))
    return [*active, *(_ended(job, tales.get(job.job_id)) for job in ended[:MOST_ENDED])]


def unread(store: ColonyStore, tales: Mapping[str, Tale]) -> list[JobInfo]:
    """Jobs whose stream says more than is known: what helps, what was found."""
    return [
        job
        for job in store.jobs.values()
        if job.operation in VERBS
        and job.state in (JobState.FAILED, JobState.COMPLETED)
        and job.job_id not in tales
    ]


def _fresh(job: JobInfo, now: float) -> bool:
    return job.finished_at is not None and now - job.finished_at < KEPT_SECONDS


def _active(job: JobInfo, info: DownloadInfo | None) -> Carriage:
    stand = Stand.RUNNING if job.operation != "model_verify" else Stand.CHECKING
    if info is None:
        return Carriage(
            key=job.job_id,
            verb=VERBS[job.operation],
            model=job.model or "",
            hive=job.hive or "",
            stand=stand if job.waiting_for else Stand.WAITING,
            jobs=(job.job_id,),
            message=job.waiting_for or "",
        )
    return Carriage(
        key=job.job_id,
        verb=VERBS[job.operation],
        model=info.model_id,
        hive=info.hive,
        stand=_stand(info),
        jobs=(job.job_id,),
        done=info.bytes_done,
        total=info.bytes_total,
        rate=info.rate,
        eta=info.eta_seconds,
        message=info.message,
    )


def _for_others(info: DownloadInfo) -> Carriage:
    names = ", ".join(info.jobs) or "a job that is ending"
    return Carriage(
        key=f"{info.hive} {info.ref}",
        verb="download",
        model=info.model_id,
        hive=info.hive,
        stand=_stand(info),
        jobs=tuple(info.jobs),
        done=info.bytes_done,
        total=info.bytes_total,
        rate=info.rate,
        eta=info.eta_seconds,
        message=f"for {names}" + (f"; {info.message}" if info.message else ""),
        own=False,
    )


def _stand(info: DownloadInfo) -> Stand:
    if info.state is TransferState.WAITING:
        return Stand.WAITING
    return Stand.CHECKING if info.state is TransferState.VERIFYING else Stand.RUNNING


def _ended(job: JobInfo, tale: Tale | None) -> Carriage:
    stand = {JobState.COMPLETED: Stand.DONE, JobState.CANCELLED: Stand.CANCELLED}.get(
        job.state, Stand.FAILED
    )
    error = tale.error if tale is not None else None
    if error is None and stand is Stand.FAILED:
        told = {"code": job.error_code, "message": job.error_message or "no reason was given"}
        error = RbeeError.from_body({"error": told})
    result = tale.result if tale is not None else {}
    if result.get("problems"):
        stand = Stand.FAILED
    return Carriage(
        key=job.job_id,
        verb=VERBS[job.operation],
        model=str(result.get("model") or job.model or ""),
        hive=job.hive or "",
        stand=stand,
        jobs=(job.job_id,),
        error=error,
        result=result,
    )
