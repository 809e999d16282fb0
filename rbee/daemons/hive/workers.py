"""The worker processes of one hive: each under its guard, its exit told at once.

Owns starting and ending them and their log files; never decides which should run.
"""

from __future__ import annotations

import http.client
import logging
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.to_thread

from rbee.daemons.base import next_free
from rbee.daemons.detached import send
from rbee.daemons.hive.asking import ask
from rbee.daemons.process import (
    TREE,
    GuardedProcess,
    clean_environment,
    python_module,
    start_guarded,
)
from rbee.errors import NotFound, ShuttingDown, WorkerAlreadyRegistered
from rbee.protocol.base import encode
from rbee.protocol.hives import HiveWorker, HiveWorkerExited
from rbee.protocol.workers import Heartbeat, ShutdownRequest, WorkerReady, WorkerSpec

if TYPE_CHECKING:
    from rbee.daemons.hive.hive import Listener
    from rbee.paths import Paths
    from rbee.settings import Settings

log = logging.getLogger("rbee.hive")
GUARD_LIMIT = 2.5
"""Seconds a guard may take to end its worker: its own grace is 1 s, then it kills."""
LOGS_KEPT = 20
"""Log files of workers that have ended, the oldest go first."""


@dataclass
class Child:
    """One worker process."""

    spec: WorkerSpec
    process: GuardedProcess
    started_at: float
    ready: WorkerReady | None = None
    beat: Heartbeat | None = None
    beat_mono: float = 0.0
    stopping: bool = False
    gone: anyio.Event = field(default_factory=anyio.Event)
    meter: Any = None

    def kill(self) -> None:
        """SIGKILL for the guard and, where it is known, the worker: when asking has failed."""
        self.process.kill()
        if self.ready is not None:
            send(self.ready.pid, signal.SIGKILL)

    def info(self) -> HiveWorker:
        """The wire form."""
        return HiveWorker(
            spec=self.spec,
            pid=self.ready.pid if self.ready else self.process.guard_pid,
            log_path=str(self.process.log_path),
            started_at=self.started_at,
            ready=self.ready,
            beat=self.beat,
        )


class Workers:
    """All worker processes of a hive. `run` must be running for `spawn` to work."""

    def __init__(
        self,
        *,
        settings: Settings,
        paths: Paths,
        listener: Listener,
        callback_url: str,
        token: str,
        tree: Callable[[str], str],
    ) -> None:
        self._settings = settings
        self._paths = paths
        self._listener = listener
        self._callback_url = callback_url
        self._token = token
        self._tree = tree
        self._children: dict[str, Child] = {}
        self._starting: dict[str, anyio.Event] = {}
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(self) -> None:
        """Hold the workers until cancelled; on the way out all are ended, in parallel."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                await anyio.sleep_forever()
        finally:
            self._tasks = None

    async def spawn(self, spec: WorkerSpec) -> None:
        """See Hive.spawn."""
        if self._tasks is None:
            raise ShuttingDown("the hive is not running")
        if spec.worker_id in self._children or spec.worker_id in self._starting:
            raise WorkerAlreadyRegistered(f"worker {spec.worker_id} already runs here")
        started = self._starting[spec.worker_id] = anyio.Event()
        try:
            self._tasks.start_soon(self._watch, await self._start(spec))
        finally:
            del self._starting[spec.worker_id]
            started.set()

    async def _start(self, spec: WorkerSpec) -> Child:
        hive = self._settings.hive
        self._drop_old_logs()
        with next_free(hive.host, hive.worker_port_base) as sock:
            command = python_module(
                "rbee.daemons.worker.main",
                "--spec", encode(spec).decode(),
                "--fd", str(sock.fileno()),
                "--callback-url", self._callback_url,
                "--beat", str(self._settings.worker.heartbeat),
                "--log-format", self._settings.log.format,
            )  # fmt: skip
            env = clean_environment(
                {
                    "RBEE_INTERNAL_TOKEN": self._token,
                    TREE: self._tree(spec.worker_id),
                    "PYTHONUNBUFFERED": "1",
                }
            )
            log_path = self.log_path(spec.worker_id)
            log_path.unlink(missing_ok=True)
            process = await start_guarded(
                command, log_path=log_path, env=env, pass_fds=[sock.fileno()]
            )
        child = Child(spec, process, time.time())
        self._children[spec.worker_id] = child
        return child

    async def stop(self, worker_id: str, *, force: bool = False) -> None:
        """See Hive.stop."""
        if worker_id in self._starting:
            await self._starting[worker_id].wait()
        child = self.get(worker_id)
        child.stopping = True
        limit = self._settings.worker.stop_timeout
        if not force and child.ready is not None:
            with anyio.move_on_after(limit):
                if await self._ask(child):
                    await child.gone.wait()
        if not child.gone.is_set():
            child.process.terminate()
            with anyio.move_on_after(GUARD_LIMIT):
                await child.gone.wait()
        if not child.gone.is_set():
            child.kill()
            with anyio.move_on_after(GUARD_LIMIT):
                await child.gone.wait()

    def get(self, worker_id: str) -> Child:
        """A running worker. Raises NotFound."""
        child = self._children.get(worker_id)
        if child is None:
            raise NotFound(f"no worker {worker_id} runs on this hive")
        return child

    def has(self, worker_id: str) -> bool:
        """Whether it runs."""
        return worker_id in self._children

    def children(self) -> list[Child]:
        """All that run, with what they said last."""
        return list(self._children.values())

    def listing(self) -> list[HiveWorker]:
        """All that run."""
        return [child.info() for child in self._children.values()]

    def ages(self) -> dict[str, float]:
        """Seconds since the last heartbeat of each that has given one."""
        now = time.monotonic()
        return {
            worker_id: now - child.beat_mono
            for worker_id, child in self._children.items()
            if child.beat is not None
        }

    def log_path(self, worker_id: str) -> Path:
        """Where a worker's output goes."""
        return self._paths.logs_dir / f"{worker_id}.log"

    def loads(self) -> list[tuple[str, float, int]]:
        """(worker id, CPU per cent since the last call, resident bytes) of each that reported."""
        import psutil  # 15 ms at first use, in a thread

        out: list[tuple[str, float, int]] = []
        for worker_id, child in list(self._children.items()):
            if child.ready is None:
                continue
            with suppress(psutil.Error):
                if child.meter is None:
                    child.meter = psutil.Process(child.ready.pid)
                with child.meter.oneshot():
                    cpu = child.meter.cpu_percent()
                    out.append((worker_id, cpu, child.meter.memory_info().rss))
        return out

    async def _watch(self, child: Child) -> None:
        code = 0
        try:
            code = await child.process.wait()
        finally:
            with anyio.CancelScope(shield=True):
                with anyio.move_on_after(GUARD_LIMIT) as limit:
                    await child.process.release()
                if limit.cancelled_caught:
                    log.error("the guard of %s hangs; killing both", child.spec.worker_id)
                    child.kill()
                    with anyio.move_on_after(GUARD_LIMIT):
                        await child.process.wait()
            self._children.pop(child.spec.worker_id, None)
            child.gone.set()
        log.info("worker %s ended with %d", child.spec.worker_id, code)
        await self._listener(
            HiveWorkerExited(
                worker_id=child.spec.worker_id,
                exit_code=code,
                expected=child.stopping,
                log_tail=child.process.log_tail(),
            )
        )

    async def _ask(self, child: Child) -> bool:
        assert child.ready is not None
        limit = self._settings.worker.stop_timeout
        body = encode(ShutdownRequest(graceful=True, timeout_seconds=max(0.5, limit - 1.0)))
        url, token = f"{child.ready.url}/v1/admin/shutdown", self._token
        try:
            status = await anyio.to_thread.run_sync(
                lambda: ask(url, token=token, body=body, limit=2.0)[0], abandon_on_cancel=True
            )
        except (OSError, http.client.HTTPException) as exc:
            log.info("worker %s cannot be asked to stop: %s", child.spec.worker_id, exc)
            return False
        return status == 202

    def _drop_old_logs(self) -> None:
        with suppress(OSError):
            logs = sorted(self._paths.logs_dir.glob("w-*.log"), key=lambda p: p.stat().st_mtime)
            for old in logs[:-LOGS_KEPT]:
                if old.stem not in self._children:
                    old.unlink()
