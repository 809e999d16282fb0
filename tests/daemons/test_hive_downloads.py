"""A hive's transfers: one for equal orders, shared, told, cancelled, and kept in the catalogue."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from rbee.daemons.hive.downloads import Downloads
from rbee.daemons.hive.models import Models
from rbee.errors import NotFound, ValidationFailed
from rbee.models.transfer_names import download_id, folder_of, place_of
from rbee.paths import Paths
from rbee.protocol.models import DownloadInfo, TransferState
from rbee.settings import ModelSettings, Settings
from tests.models.orders import REPO, noise, order_for, ranges
from tests.support.hub_fixture import StandIn
from tests.support.tiny_gguf import llama

pytestmark = pytest.mark.anyio
LIMIT = 60.0
MODEL = llama().data() + noise(2_000_000)
"""A real small model; what follows its tensors makes it last."""


class Shelf(Models):
    """The hive's models, with their folders under the test's."""

    def __init__(self, home: Path) -> None:
        paths = Paths(*(home / name for name in ("config", "data", "state", "cache", "run")))
        paths.ensure()
        self.told = 0

        async def changed() -> None:
            self.told += 1

        super().__init__(
            settings=Settings(), paths=paths, hive="here", changed=changed, workers=list
        )


@asynccontextmanager
async def running(shelf: Shelf) -> AsyncGenerator[Downloads]:
    settings = ModelSettings()
    made = Downloads(settings=settings, folder=shelf.folder, shelf=shelf, hive="here")
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            await tasks.start(made.run)
            yield made
            tasks.cancel_scope.cancel()


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    yield made
    made.close()


async def until(downloads: Downloads, key: str, reached: int) -> DownloadInfo:
    """The first that has so many bytes."""
    async for info in downloads.watch(key):
        if info.bytes_done >= reached:
            return info
    raise AssertionError(f"it ended before {reached} bytes")


async def test_three_equal_orders_are_one_transfer(hub: StandIn, shelf: Shelf) -> None:
    order = order_for(hub, {"m.gguf": MODEL})
    hub.fault("m.gguf", "slow", rate=4_000_000)
    async with running(shelf) as downloads:
        started = [await downloads.start(order) for _ in range(3)]
        ended: list[DownloadInfo] = []

        async def one(key: str) -> None:
            ended.append(await downloads.wait(key))

        async with anyio.create_task_group() as waiters:
            for info in started:
                waiters.start_soon(one, info.download_id)
        assert [info.state for info in ended] == [TransferState.DONE] * 3
        assert len(downloads.infos()) == 1
        assert ranges(hub) == [None]
        assert (await downloads.start(order)).state == TransferState.DONE
        entry = await shelf.entry(order.ref)
    assert entry.path == str(shelf.folder / f"hf/{REPO}/0123456789ab/m.gguf")
    assert place_of(shelf.folder, order).read_bytes() == MODEL
    assert (entry.files[0].sha256, entry.provider) == (order.files[0].sha256, "hf")
    assert not list((shelf.folder / ".partial").iterdir())
    assert shelf.told == 1
    assert ranges(hub) == [None]


async def test_followers_hear_of_it_and_last_of_its_end(hub: StandIn, shelf: Shelf) -> None:
    order = order_for(hub, {"m.gguf": MODEL})
    hub.fault("m.gguf", "slow", rate=2_000_000)
    async with running(shelf) as downloads:
        key = (await downloads.start(order)).download_id
        told = [info async for info in downloads.watch(key)]
    done = [info.bytes_done for info in told]
    assert done == sorted(done)
    assert told[-1].state == TransferState.DONE
    assert told[-1].bytes_done == told[-1].bytes_total == len(MODEL)
    moving = [info for info in told if info.rate > 0]
    assert moving
    assert all(info.eta_seconds is not None and info.eta_seconds > 0 for info in moving)
    assert {info.hive for info in told} == {"here"}


async def test_cancel_keeps_what_has_come(hub: StandIn, shelf: Shelf) -> None:
    order = order_for(hub, {"m.gguf": MODEL})
    hub.fault("m.gguf", "stall", at=1_000_000)
    async with running(shelf) as downloads:
        key = (await downloads.start(order)).download_id
        part = folder_of(shelf.folder, order) / "part/m.gguf"
        await until(downloads, key, 1)
        assert (await downloads.cancel(key)).state == TransferState.CANCELLED
        kept = part.stat().st_size
        assert 0 < kept <= 1_000_000
        assert part.read_bytes() == MODEL[:kept]
        assert not await downloads.is_here(order)
        again = await downloads.start(order)
        assert again.state == TransferState.WAITING
        assert (await downloads.wait(key)).state == TransferState.DONE
        assert ranges(hub) == [None, f"bytes={kept}-"]
        assert (await downloads.cancel(key)).state == TransferState.DONE


async def test_hive_that_stops_keeps_what_has_come(hub: StandIn, shelf: Shelf) -> None:
    order = order_for(hub, {"m.gguf": MODEL})
    hub.fault("m.gguf", "stall", at=1_000_000)
    async with running(shelf) as downloads:
        await until(downloads, (await downloads.start(order)).download_id, 1)
    kept = (folder_of(shelf.folder, order) / "part/m.gguf").stat().st_size
    async with running(shelf) as downloads:
        key = (await downloads.start(order)).download_id
        assert (await downloads.wait(key)).state == TransferState.DONE
    assert ranges(hub) == [None, f"bytes={kept}-"]


async def test_the_third_order_waits_and_says_so(hub: StandIn, shelf: Shelf) -> None:
    orders = [order_for(hub, {f"{n}.gguf": MODEL}) for n in range(3)]
    hub.fault("gguf", "stall", at=0, times=0)
    async with running(shelf) as downloads:
        keys = [(await downloads.start(order)).download_id for order in orders]
        third = [info async for info in _until_told(downloads, keys[2])][-1]
        assert third.state == TransferState.WAITING
        assert third.message == "waits until one of 2 others has ended"
        assert downloads.active == set(keys)
        hub.heal()
        for key in keys[:2]:
            await downloads.cancel(key)
        assert (await downloads.wait(keys[2])).state == TransferState.DONE


async def _until_told(downloads: Downloads, key: str) -> AsyncGenerator[DownloadInfo]:
    async for info in downloads.watch(key):
        yield info
        if info.message:
            return


async def test_fresh_addresses_take_up_one_whose_had_expired(hub: StandIn, shelf: Shelf) -> None:
    order = order_for(hub, {"m.gguf": MODEL})
    hub.fault("m.gguf", "status", status=403)
    async with running(shelf) as downloads:
        key = (await downloads.start(order)).download_id
        failed = await downloads.wait(key)
        assert failed.state == TransferState.FAILED
        assert failed.error is not None
        assert failed.error["code"] == "DOWNLOAD_FAILED"
        assert failed.error["details"]["expired"] is True
        file = msgspec.structs.replace(order.files[0], url=order.files[0].url + "?fresh=1")
        assert (await downloads.start(msgspec.structs.replace(order, files=[file]))).error is None
        assert (await downloads.wait(key)).state == TransferState.DONE


async def test_what_is_no_model_is_removed(hub: StandIn, shelf: Shelf) -> None:
    order = order_for(hub, {"m.gguf": b"GGUF" + noise(5000)})
    async with running(shelf) as downloads:
        ended = await downloads.wait((await downloads.start(order)).download_id)
    assert ended.error is not None
    assert ended.error["code"] == "MODEL_CORRUPTED"
    assert not await downloads.is_here(order)
    assert not place_of(shelf.folder, order).exists()
    assert not folder_of(shelf.folder, order).exists()


async def test_file_of_the_hub_cache_is_linked_not_fetched(
    hub: StandIn, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = order_for(hub, {"m.gguf": MODEL})
    repo = tmp_path / "hf" / "hub" / f"models--{REPO.replace('/', '--')}"
    blob = repo / "blobs" / str(order.files[0].sha256)
    snapshot = repo / "snapshots" / order.revision / "m.gguf"
    for path in (blob, snapshot):
        path.parent.mkdir(parents=True)
    blob.write_bytes(MODEL)
    snapshot.symlink_to(blob)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    async with running(shelf) as downloads:
        ended = await downloads.wait((await downloads.start(order)).download_id)
        assert ended.state == TransferState.DONE
        assert await downloads.is_here(order)
    assert place_of(shelf.folder, order).samefile(blob)
    assert hub.log() == []


async def test_model_that_lies_in_its_place_unknown_is_not_fetched_again(
    hub: StandIn, shelf: Shelf, tmp_path: Path
) -> None:
    """The catalogue was lost, the models folder was not."""
    order = order_for(hub, {"m.gguf": MODEL})
    async with running(shelf) as downloads:
        await downloads.wait((await downloads.start(order)).download_id)
    shelf.close()
    for path in (tmp_path / "data").glob("catalogue.db*"):
        path.unlink()
    hub.forget()
    async with running(shelf) as downloads:
        ended = await downloads.wait((await downloads.start(order)).download_id)
        assert ended.state == TransferState.DONE
        assert await downloads.is_here(order)
    assert place_of(shelf.folder, order).read_bytes() == MODEL
    assert hub.log() == []


async def test_another_process_of_this_machine_is_waited_for(hub: StandIn, shelf: Shelf) -> None:
    order = order_for(hub, {"m.gguf": MODEL})
    hub.fault("m.gguf", "stall", at=1_000_000)
    async with running(shelf) as first, running(shelf) as second:
        key = (await first.start(order)).download_id
        await until(first, key, 1)
        await second.start(order)
        told = [info async for info in _until_told(second, key)][-1]
        assert told.message == "waits for another process of this machine that fetches it"
        await first.cancel(key)
        await first.start(order)
        for downloads in (first, second):
            assert (await downloads.wait(key)).state == TransferState.DONE
    assert len(ranges(hub)) == 2


async def test_ids_and_orders_that_are_none_are_refused(shelf: Shelf) -> None:
    async with running(shelf) as downloads:
        with pytest.raises(NotFound):
            downloads.watch("x")
        with pytest.raises(NotFound):
            await downloads.cancel("x")
        with pytest.raises(ValidationFailed):
            await downloads.start(order_for(None, {"m.gguf": b"x"}))
        assert downloads.infos() == []
    assert download_id("a") != download_id("b")
