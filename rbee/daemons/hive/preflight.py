"""Whether a worker fits into the memory that is free now, asked before its process starts.

The queen has decided by what she was told a moment ago; this looks at the devices themselves. Owns
the refusal, what is promised to workers that still load, and what is learned of those that have
loaded. Never starts or stops anything, and never judges a file: a damaged one is told of by the
worker that loads it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from rbee.core.sizing import GIB, Spread, insufficient, need_of
from rbee.daemons.hive.workers import Child
from rbee.errors import RbeeError
from rbee.models import gguf
from rbee.models.describe import info_of
from rbee.models.measured import Measurements
from rbee.protocol.hives import Device, ModelInfo
from rbee.protocol.memory import Measured, padded
from rbee.protocol.workers import WorkerSpec, WorkerState

log = logging.getLogger("rbee.hive")
LOOKS, LOOK_EVERY = 6, 0.2
"""A GPU's driver gives memory back some tenths of a second after the process is gone."""
_MOST_KNOWN = 1024


@dataclass(frozen=True)
class _Promise:
    device: str
    bytes: int


class Preflight:
    """`devices` reads them (it blocks); `children` are the hive's worker processes."""

    def __init__(
        self,
        name: str,
        *,
        devices: Callable[[], list[Device]],
        children: Callable[[], Iterable[Child]],
        measurements: Measurements,
    ) -> None:
        self._name = name
        self._devices = devices
        self._children = children
        self._measurements = measurements
        self._known: dict[str, ModelInfo] = {}
        """By path: what was told of the models here."""
        self._promised: dict[str, _Promise] = {}
        self._entering: set[str] = set()
        self._lock = anyio.Lock()
        self._telling = threading.Lock()

    def told(self, models: list[ModelInfo]) -> list[ModelInfo]:
        """The models as they are told to the queen: with what was measured of each. It blocks."""
        models = self._measurements.attach(models)
        with self._telling:
            for model in models:
                self._known.pop(model.path, None)
                self._known[model.path] = model
            while len(self._known) > _MOST_KNOWN:
                self._known.pop(next(iter(self._known)))
        return models

    @asynccontextmanager
    async def place(self, spec: WorkerSpec) -> AsyncGenerator[None]:
        """Start the worker inside; its memory is promised to it until it has loaded or gone.

        Raises InsufficientRam, InsufficientVram.
        """
        async with self._lock:
            promise = await self._check(spec)
            if promise is not None:
                self._promised[spec.worker_id] = promise
            self._entering.add(spec.worker_id)
        try:
            yield
        except BaseException:
            self._promised.pop(spec.worker_id, None)
            raise
        finally:
            self._entering.discard(spec.worker_id)

    async def learn(self, spec: WorkerSpec, taken: int) -> bool:
        """A worker has loaded and takes so many bytes; whether the models' figures change."""
        self._promised.pop(spec.worker_id, None)
        return await anyio.to_thread.run_sync(self._learn, spec, taken)

    def _learn(self, spec: WorkerSpec, taken: int) -> bool:
        model = self._model(spec)
        if model is None or not model.weights_bytes:
            return False
        seen = Measured(
            backend=spec.backend,
            device_kind=_kind(spec.device),
            ctx=padded(spec.ctx),
            slots=spec.slots,
            kv_type=spec.kv_type,
            flash=spec.flash_attention != "off",
            bytes=taken,
        )
        if not self._measurements.record(model, seen):
            return False
        log.info(
            "%s took %.2f GiB on %s with %d slots of %d tokens",
            model.id, taken / GIB, spec.device, spec.slots, spec.ctx,
        )  # fmt: skip
        return True

    async def _check(self, spec: WorkerSpec) -> _Promise | None:
        """None: nothing is known of the model or the device, so nothing can be promised."""
        model = await anyio.to_thread.run_sync(self._model, spec)
        if model is None or not model.weights_bytes:
            return None
        [model] = await anyio.to_thread.run_sync(self._measurements.attach, [model])
        for look in range(LOOKS):
            device = await anyio.to_thread.run_sync(self._device, spec.device)
            if device is None:
                return None
            spread = Spread(spec.kv_type, device.kind, spec.flash_attention != "off", spec.backend)
            coming = await anyio.to_thread.run_sync(self._coming, device)
            free = max(0, device.memory_free - coming)
            need = need_of(model, spread, ctx=spec.ctx, slots=spec.slots)
            if need <= free:
                return _Promise(device.name, need)
            if device.kind == "cpu" or look + 1 == LOOKS:
                where = f"{self._name} {device.name}"
                raise insufficient(
                    model, spread, where=where, ctx=spec.ctx, slots=spec.slots, free=free
                )
            await anyio.sleep(LOOK_EVERY)
        return None

    def _model(self, spec: WorkerSpec) -> ModelInfo | None:
        """What is known of the file; its header is read when nobody has told of it."""
        known = self._known.get(spec.model_path)
        if known is not None or spec.format != "gguf":
            return known
        path = Path(spec.model_path)
        try:
            size = path.stat().st_size
            return info_of(
                gguf.read(path), name=spec.model_id, ref=f"file:{path}", path=str(path), size=size
            )
        except (RbeeError, OSError) as exc:
            log.info("the memory of %s is not known before it loads: %s", spec.model_id, exc)
            return None

    def _device(self, name: str) -> Device | None:
        for device in self._devices():
            if name in (device.name, device.kind):
                return device
        return None

    def _coming(self, device: Device) -> int:
        """What workers that load there will still take."""
        loading: dict[str, Child] = {}
        for child in self._children():
            if child.beat is None or child.beat.state is WorkerState.LOADING:
                loading[child.spec.worker_id] = child
        coming = 0
        for name, promise in list(self._promised.items()):
            child = loading.get(name)
            if child is None and name not in self._entering:
                self._promised.pop(name, None)
            elif promise.device == device.name:
                taken = _taken(child, device) if child is not None else 0
                coming += max(0, promise.bytes - taken)
        return coming


def _taken(child: Child, device: Device) -> int:
    """What the device already counts as used by it. A process's own memory is main memory."""
    if device.kind != "cpu":
        return child.beat.memory_bytes if child.beat is not None else 0
    if child.ready is None:
        return 0
    import psutil  # 15 ms at first use, in a thread

    try:
        return int(psutil.Process(child.ready.pid).memory_info().rss)
    except psutil.Error:
        return 0


def _kind(device: str) -> str:
    return device.partition(":")[0]
