"""Hosts one backend with one model: loading, slots, and the worker's state.

Owns the state and is the only one to change it, always on the event loop; the backend's threads
report to it. Knows nothing of HTTP. A backend that fails to load, or whose device fails, leaves the
worker failed for good.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from rbee import registry
from rbee.backend_api import (
    Done,
    Item,
    LoadedModel,
    LoadOptions,
    ModelFile,
    Piece,
    Prefill,
    Request,
)
from rbee.daemons.worker.requests import check_can, request_of
from rbee.daemons.worker.running import Running
from rbee.errors import (
    AllSlotsBusy,
    Conflict,
    DeviceFailed,
    InternalError,
    ModelLoadFailed,
    RbeeError,
    ShuttingDown,
    WorkerNotReady,
)
from rbee.protocol.workers import Execute, Heartbeat, WorkerHealth, WorkerSpec, WorkerState

log = logging.getLogger("rbee.worker")
_PROGRESS_STEP = 0.01

_STEPS: Mapping[WorkerState, frozenset[WorkerState]] = {
    WorkerState.LOADING: frozenset({WorkerState.IDLE, WorkerState.STOPPING, WorkerState.FAILED}),
    WorkerState.IDLE: frozenset({WorkerState.BUSY, WorkerState.STOPPING, WorkerState.FAILED}),
    WorkerState.BUSY: frozenset({WorkerState.IDLE, WorkerState.STOPPING, WorkerState.FAILED}),
    WorkerState.STOPPING: frozenset({WorkerState.STOPPED}),
    WorkerState.STOPPED: frozenset(),
    WorkerState.FAILED: frozenset({WorkerState.STOPPING}),
}
READY = frozenset({WorkerState.IDLE, WorkerState.BUSY})


class Runner:
    """Made on the event loop; `tasks` must outlive it."""

    def __init__(
        self, spec: WorkerSpec, tasks: anyio.abc.TaskGroup, *, progress_url: str = ""
    ) -> None:
        self.spec = spec
        self.state = WorkerState.LOADING
        self.stage = "starting"
        self.progress = 0.0
        self.error: RbeeError | None = None
        self.failed = anyio.Event()
        """Set with the state failed."""
        self.changed = anyio.Event()
        """Set at the next change of anything; take it before looking, wait for it after."""
        self.progress_url = progress_url
        self._capabilities: list[str] = []
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._model: LoadedModel | None = None
        self._running: dict[str, Running] = {}
        self._continues = False
        self._delivered = 0
        self._give_up = threading.Event()
        self._seen = ("", -1.0)
        self._idle_since = time.monotonic()

    async def load(self) -> None:
        """Load the model in a thread; ends in the state idle or failed."""
        began = time.monotonic()
        try:
            model = await anyio.to_thread.run_sync(self._load, abandon_on_cancel=True)
        except RbeeError as exc:
            self._fail(exc)
        except Exception as exc:  # the backend is a plug-in; its defect is a failed load
            log.exception("loading failed")
            self._fail(ModelLoadFailed(f"backend {self.spec.backend}: {type(exc).__name__}: {exc}"))
        else:
            log.info("loaded model=%s seconds=%.2f", self.spec.model_id, time.monotonic() - began)
            model.start(self._deliver)
            self._model = model
            self._capabilities = list(model.capabilities)
            self.stage, self.progress = "ready", 1.0
            self._idle_since = time.monotonic()
            if self.state is WorkerState.LOADING:
                self._become(WorkerState.IDLE)

    def start(self, request: Execute) -> Running:
        """Give the request to the backend, which runs it as soon as a slot is free.

        One request more than there are slots is taken, so that a slot that becomes free is used
        at once. Raises WorkerNotReady, ShuttingDown, AllSlotsBusy, Conflict, ValidationFailed.
        """
        model = self._ready_model()
        total, taken = self.spec.slots, len(self._running)
        if taken > total or (taken == total and not request.may_wait):
            raise AllSlotsBusy(
                f"all {total} slots of {self.spec.worker_id} are busy",
                slots_total=total,
                slots_busy=min(taken, total),
            )
        if request.request_id in self._running:
            raise Conflict(
                f"a request {request.request_id!r} is running already", action="Use a fresh id."
            )
        order = request_of(request)
        check_can(order, self._capabilities, model=self.spec.model_id, continues=self._continues)
        running = Running(request.request_id, model.cancel, lambda: self._delivered)
        self._running[running.id] = running
        log.info("request begins", extra=_names(running))
        self._settle()
        self._tasks.start_soon(self._submit, model, running, order)
        return running

    def cancel(self, request_id: str) -> None:
        """Cancel a request; nothing happens when it is not running."""
        if (running := self._running.get(request_id)) is not None:
            running.cancel()

    def cancel_all(self) -> None:
        """Cancel every request and a load under way."""
        self._give_up.set()
        for running in self._running.values():
            running.cancel()

    def close_door(self) -> None:
        """Take no more requests; those that run go on."""
        if self.state not in (WorkerState.STOPPING, WorkerState.STOPPED):
            self._become(WorkerState.STOPPING)

    async def drained(self) -> None:
        """Return when no request runs."""
        while self._running:
            await self.changed.wait()

    def heartbeat(self) -> Heartbeat:
        """What is told to the hive."""
        return Heartbeat(
            worker_id=self.spec.worker_id,
            state=self.state,
            stage=self.stage,
            progress=self.progress if self.state is WorkerState.LOADING else None,
            slots_total=self.spec.slots if self._model is not None else 0,
            slots_busy=min(len(self._running), self.spec.slots),
            ctx=self._model.ctx if self._model is not None else 0,
            memory_bytes=self._model.memory_bytes if self._model is not None else 0,
            idle_seconds=self._idle_seconds(),
            error=self.error.body()["error"] if self.error is not None else None,
        )

    def stats(self) -> Mapping[str, float]:
        """Counters since the start: the backend's own, and CPU time of the event loop's thread."""
        own = self._model.stats() if self._model is not None else {}
        return {**own, "loop_cpu_ms": time.thread_time() * 1000}

    def health(self) -> WorkerHealth:
        """What anybody may know."""
        return WorkerHealth(
            status="failed" if self.state is WorkerState.FAILED else "healthy",
            model=self.spec.model_id,
            backend=self.spec.backend,
            device=self.spec.device,
            state=self.state,
            slots_total=self.spec.slots,
            slots_busy=min(len(self._running), self.spec.slots),
            memory_bytes=self._model.memory_bytes if self._model is not None else 0,
            idle_seconds=self._idle_seconds(),
            capabilities=self._capabilities,
            protocol="sse",
            worker_id=self.spec.worker_id,
        )

    def _load(self) -> LoadedModel:
        """In a thread."""
        from rbee.hardware.cpu import physical_cores

        spec = self.spec
        info = registry.load(spec.backend)
        self._capabilities = list(info.capabilities)
        self._continues = info.continues
        if not 1 <= spec.slots <= info.max_slots:
            raise ModelLoadFailed(
                f"{info.name} runs at most {info.max_slots} at a time, not {spec.slots}",
                action=f"Start the worker with --slots {info.max_slots} or less.",
            )
        if spec.format == "gguf":
            self._check_header(Path(spec.model_path))
        options = LoadOptions(
            device=spec.device,
            slots=spec.slots,
            ctx=spec.ctx,
            threads=physical_cores(),
            kv_type=spec.kv_type,
            flash_attention=spec.flash_attention,
            max_gap_ms=spec.max_gap_ms,
            prompt_cache_bytes=spec.prompt_cache_mb << 20,
        )
        model = ModelFile(spec.model_id, Path(spec.model_path), spec.format)
        return info.create().load(model, options, self._report, self._give_up)

    @staticmethod
    def _check_header(path: Path) -> None:
        """Some defects of a header abort the process in C: find them first."""
        from rbee.models import gguf, gguf_sanity

        try:
            gguf_sanity.check(gguf.read(path), path.name)
        except OSError as exc:
            raise ModelLoadFailed(f"{path} cannot be read: {exc.strerror}") from exc

    def _report(self, stage: str, fraction: float) -> None:
        """Progress, from the loading thread."""
        before, done = self._seen
        if stage == before and done <= fraction < min(1.0, done + _PROGRESS_STEP):
            return
        self._seen = (stage, fraction)
        self._loop.call_soon_threadsafe(partial(self._progressed, stage, fraction))

    def _progressed(self, stage: str, fraction: float) -> None:
        if self.state is WorkerState.LOADING:
            self.stage, self.progress = stage, min(1.0, max(0.0, fraction))
            self._touch()

    async def _submit(self, model: LoadedModel, running: Running, order: Request) -> None:
        """Templates and tokens take their time: in a thread."""
        try:
            await anyio.to_thread.run_sync(model.submit, running.id, order, abandon_on_cancel=True)
        except RbeeError as exc:
            self._received([(running.id, exc)])
        except Exception as exc:  # the backend is a plug-in: one request fails, not the worker
            log.exception("request %s: the backend failed", running.id)
            error = InternalError(f"the backend failed: {type(exc).__name__}")
            self._received([(running.id, error)])
        if running.cancelled:  # the backend did not know the request when that was asked for
            running.cancel()

    def _deliver(self, items: Sequence[tuple[str, Item]]) -> None:
        """From the backend's thread."""
        self._loop.call_soon_threadsafe(self._received, items)

    def _received(self, items: Sequence[tuple[str, Item]]) -> None:
        self._delivered += 1
        touched: dict[str, Running] = {}
        for request_id, item in items:
            running = self._running.get(request_id)
            if running is None:
                continue
            touched[request_id] = running
            if isinstance(item, DeviceFailed):
                self._fail(item)
            if not isinstance(item, Piece | Prefill):
                del self._running[request_id]
                self._idle_since = time.monotonic()
                self._settle()
                log.info("request ended", extra=_names(running) | _end_of(running, item))
            running.put(item)
        for running in touched.values():
            running.flush()

    def _ready_model(self) -> LoadedModel:
        if self.state in (WorkerState.STOPPING, WorkerState.STOPPED):
            raise ShuttingDown(f"worker {self.spec.worker_id} is stopping")
        if self.error is not None:
            raise self.error
        if self._model is None:
            raise WorkerNotReady(
                f"{self.spec.model_id} is still loading ({self.stage}, {self.progress:.0%})",
                progress_url=self.progress_url,
                stage=self.stage,
                progress=self.progress,
            )
        return self._model

    def _settle(self) -> None:
        """Idle or busy, by the requests that run."""
        if self.state in READY:
            wanted = WorkerState.BUSY if self._running else WorkerState.IDLE
            if wanted is not self.state:
                self._become(wanted)
                return
        self._touch()

    def _fail(self, error: RbeeError) -> None:
        if self.error is not None:
            return
        self.error = error
        if WorkerState.FAILED in _STEPS[self.state]:
            self._become(WorkerState.FAILED)
            self.failed.set()

    def _become(self, state: WorkerState) -> None:
        if state not in _STEPS[self.state]:
            raise InternalError(f"a worker cannot go from {self.state} to {state}")
        self.state = state
        self._touch()

    def _touch(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    def _idle_seconds(self) -> float:
        return time.monotonic() - self._idle_since if self.state is WorkerState.IDLE else 0.0


def _names(running: Running) -> dict[str, object]:
    return {"request_id": running.id, "correlation_id": running.correlation_id}


def _end_of(running: Running, last: Item) -> dict[str, object]:
    """What the log tells of an end: counts, times and codes, nothing of what was said."""
    ms = round((time.monotonic() - running.began) * 1000)
    if isinstance(last, RbeeError):
        return {"tokens": running.tokens, "finish_reason": "error", "error": last.code, "ms": ms}
    if isinstance(last, Done):
        return {"tokens": last.completion_tokens, "finish_reason": last.finish_reason, "ms": ms}
    return {"tokens": 0, "finish_reason": "stop", "ms": ms}


def progress_event(runner: Runner) -> dict[str, Any]:
    """One event of the loading progress: the stage, or how it ended."""
    if runner.error is not None:
        return {"stage": "failed", "error": runner.error.body()["error"]}
    if runner.state is WorkerState.STOPPING:
        return {"stage": "stopping", "progress": runner.progress}
    return {"stage": runner.stage, "progress": runner.progress}
