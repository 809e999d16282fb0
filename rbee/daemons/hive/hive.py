"""A hive: what one machine can do, done when the queen says so.

Owns this machine's devices, models and worker processes, and tells its listener what happens to
them. It decides nothing. The queen embeds one (calls), or reaches one over HTTP (`app`, `link`).
"""

from __future__ import annotations

import logging
import platform
import secrets
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from rbee import __version__, registry
from rbee.daemons.hive import standing
from rbee.daemons.hive.downloads import Downloads
from rbee.daemons.hive.models import Models
from rbee.daemons.hive.news import News
from rbee.daemons.hive.preflight import Preflight
from rbee.daemons.hive.receiving import Receiving
from rbee.daemons.hive.workers import Workers
from rbee.daemons.process import sweep
from rbee.daemons.state import locked
from rbee.errors import HiveExists, NotFound
from rbee.hardware.probe import Probe
from rbee.models.measured import Measurements
from rbee.protocol import PROTOCOL
from rbee.protocol.hives import (
    Absent,
    AnyHiveEvent,
    BackendStatus,
    Capabilities,
    Device,
    HiveHeartbeat,
    HiveModels,
    HiveWorker,
    HiveWorkerReady,
    ModelInfo,
    WorkerLoad,
)
from rbee.protocol.workers import Heartbeat, WorkerReady, WorkerSpec, WorkerState

if TYPE_CHECKING:
    from rbee.paths import Paths
    from rbee.settings import Settings

log = logging.getLogger("rbee.hive")
Listener = Callable[[AnyHiveEvent], Awaitable[None]]
TELEMETRY_EVERY = 1.0


class Hive:
    """One machine's hive.

    `listener` is awaited with every event, in order. `callback_url` is where this machine's workers
    report (the embedding queen's or the hive's own address), with `token`.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        paths: Paths,
        listener: Listener,
        callback_url: str,
        token: str,
        name: str | None = None,
    ) -> None:
        self.name = name or settings.hive.name
        self.token = token
        self._settings = settings
        self._paths = paths
        self._listener = listener
        self._probe = Probe()
        self.news = News(heartbeat=settings.worker.heartbeat, every=TELEMETRY_EVERY)
        self._reading = threading.Lock()
        self._measured: tuple[list[Device], list[WorkerLoad]] | None = None
        """What was measured and is not told yet."""
        nonce = secrets.token_hex(4)
        self._nonce = nonce
        self.workers = Workers(
            settings=settings,
            paths=paths,
            listener=listener,
            callback_url=callback_url,
            token=token,
            tree=lambda worker: f"{self._tree_prefix()}{worker}:{nonce}",
        )
        self.models = Models(
            settings=settings,
            paths=paths,
            hive=self.name,
            changed=self.tell_models,
            workers=self.workers.listing,
        )
        self.downloads = Downloads(
            settings=settings.models, folder=self.models.folder, shelf=self.models, hive=self.name
        )
        self.receiving = Receiving(self.downloads)
        self.models.active = lambda: self.downloads.active
        self.measurements = Measurements(paths.data / "catalogue.db")
        self.preflight = Preflight(
            self.name,
            devices=self._devices,
            children=self.workers.children,
            measurements=self.measurements,
        )

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[Capabilities] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Live until cancelled; then every worker is gone. Reports its capabilities as started.

        Raises HiveExists when a hive of that name already lives in the same state folder.
        """
        with locked(standing.lock_of(self._paths, self.name)) as mine:
            if not mine:
                raise HiveExists(f"a hive named {self.name} already runs in {self._paths.state}")
            await self._live(task_status)

    async def _live(self, task_status: anyio.abc.TaskStatus[Capabilities]) -> None:
        left = await anyio.to_thread.run_sync(sweep, self._tree_prefix(), self._nonce)
        if left:
            log.warning("killed %d processes an earlier hive left: %s", len(left), left)
        task_status.started(await self.capabilities())
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.workers.run)
                tasks.start_soon(self.models.run)
                tasks.start_soon(self.downloads.run)
                tasks.start_soon(self.receiving.run)
                tasks.start_soon(self._measure)
                tasks.start_soon(self._telemetry)
        finally:
            self._probe.close()
            self.measurements.close()
            self.models.close()

    async def capabilities(self) -> Capabilities:
        """Devices, backends, models and disk, with a reason for everything that is absent."""
        return await anyio.to_thread.run_sync(self._capabilities)

    def _capabilities(self) -> Capabilities:
        devices, absent = self._read_devices()
        present: list[BackendStatus] = []
        missing: list[Absent] = []
        for info, support in registry.survey():
            if support.available:
                present.append(
                    BackendStatus(
                        name=info.name,
                        formats=list(info.formats),
                        capabilities=list(info.capabilities),
                        devices=list(support.devices),
                        max_slots=info.max_slots,
                    )
                )
            else:
                missing.append(
                    Absent(
                        name=info.name,
                        reason=support.reason,
                        action=support.action,
                        formats=list(info.formats),
                    )
                )
        disk = self.models.disk()
        return Capabilities(
            hive=self.name,
            version=__version__,
            protocol=PROTOCOL,
            hostname=socket.gethostname(),
            os=f"{platform.system()} {platform.release()} {platform.machine()}",
            devices=devices,
            absent_devices=absent,
            backends=present,
            absent_backends=missing,
            models=self.preflight.told(self.models.list()),
            disk_free=disk.free,
            disk_total=disk.total,
            labels=dict(self._settings.hive.labels),
            models_dir=str(self.models.folder),
        )

    async def resolve(self, ref: str) -> ModelInfo:
        """A model by reference or alias. Raises ModelNotFound, ModelCorrupted, …Incompatible."""
        info = await self.models.resolve(ref)
        return (await anyio.to_thread.run_sync(self.preflight.told, [info]))[0]

    async def spawn(self, spec: WorkerSpec) -> None:
        """Start a worker process, if its device has the memory for it now.

        Raises InsufficientRam, InsufficientVram, WorkerAlreadyRegistered, PortTaken, ShuttingDown.
        """
        with self.models.starting(spec):
            async with self.preflight.place(spec):
                await self.workers.spawn(spec)
        await self.models.used(spec.model_path)

    async def stop(self, worker_id: str, *, force: bool = False) -> None:
        """End a worker; returns when the process is gone. Raises NotFound."""
        await self.workers.stop(worker_id, force=force)

    async def worker_ready(self, ready: WorkerReady) -> None:
        """A worker's HTTP is up. Raises NotFound for one that is not ours."""
        child = self.workers.get(ready.worker_id)
        child.ready = ready
        log_path = str(child.process.log_path)
        await self._listener(HiveWorkerReady(ready=ready, log_path=log_path))

    async def heartbeat(self, beat: Heartbeat) -> None:
        """A worker's heartbeat; one that says nothing new is told of by the next telemetry.

        Raises NotFound for one that is not ours.
        """
        child = self.workers.get(beat.worker_id)
        before, child.beat, child.beat_mono = child.beat, beat, time.monotonic()
        if self.news.is_new(beat, before):
            await self._listener(HiveHeartbeat(beat=beat))
        loading = before is None or before.state is WorkerState.LOADING
        loaded = loading and beat.state in (WorkerState.IDLE, WorkerState.BUSY)
        if loaded and await self.preflight.learn(child.spec, beat.memory_bytes):
            await self.tell_models()

    async def tell_models(self) -> None:
        """Tell the listener all models there are, as they are now."""
        await self._listener(await self.stock())

    async def stock(self) -> HiveModels:
        """All models there are, as they are now."""
        return await anyio.to_thread.run_sync(self._stock)

    def _stock(self) -> HiveModels:
        models = self.preflight.told(self.models.list())
        return HiveModels(models=models, disk_free=self.models.disk().free)

    def listing(self) -> list[HiveWorker]:
        """The workers that run."""
        return self.workers.listing()

    def log_tail(self, worker_id: str, lines: int = 200) -> list[str]:
        """The last lines a worker wrote, also after its end. Raises NotFound."""
        path = self.workers.log_path(worker_id)
        if not path.exists():
            raise NotFound(f"no log of {worker_id}", action="rbee worker list shows the workers.")
        from rbee.daemons.process import tail

        return tail(path, lines)

    async def _measure(self) -> None:
        while True:
            devices = await anyio.to_thread.run_sync(self._devices)
            loads = await anyio.to_thread.run_sync(self._loads)
            self._measured = devices, loads
            await anyio.sleep(TELEMETRY_EVERY)

    async def _telemetry(self) -> None:
        """A measurement that hangs must not make workers seem silent."""
        while True:
            await anyio.sleep(TELEMETRY_EVERY)
            measured, self._measured = self._measured, None
            await self._listener(self.news.telemetry(measured, self.workers.ages()))

    def _devices(self) -> list[Device]:
        return self._read_devices()[0]

    def _read_devices(self) -> tuple[list[Device], list[Absent]]:
        with self._reading:
            return self._probe.read()

    def _loads(self) -> list[WorkerLoad]:
        return [
            WorkerLoad(worker_id=worker_id, cpu_percent=cpu, rss_bytes=rss)
            for worker_id, cpu, rss in self.workers.loads()
        ]

    def _tree_prefix(self) -> str:
        return standing.tree_of(self._paths, self.name)
