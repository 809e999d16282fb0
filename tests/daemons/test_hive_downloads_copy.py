"""Copies that come to a hive piece by piece: holes, repeats, damage, and what they leave."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from rbee.daemons.hive.downloads import Downloads
from rbee.daemons.hive.receiving import Receiving
from rbee.errors import Conflict, DownloadFailed, ModelCorrupted, NotFound, ValidationFailed
from rbee.models.transfer_names import folder_of, place_of
from rbee.protocol.models import DownloadOrder, TransferState
from rbee.settings import ModelSettings
from tests.daemons.test_hive_downloads import Shelf
from tests.models.orders import noise, order_for
from tests.support.hub_fixture import StandIn
from tests.support.tiny_gguf import llama

pytestmark = pytest.mark.anyio
MODEL = llama().data() + noise(1_000_000)
ORDER = order_for(None, {"m.gguf": MODEL})
HALF = len(MODEL) // 2


class Target:
    """A hive's receiving side."""

    def __init__(self, downloads: Downloads, receiving: Receiving) -> None:
        self.downloads = downloads
        self.receiving = receiving

    async def put(
        self, key: str, start: int, end: int, *, data: bytes = MODEL, file: str = "m.gguf"
    ) -> dict[str, int]:
        piece = data[start:end]
        sha256 = hashlib.sha256(piece).hexdigest()
        return await self.receiving.take(key, file=file, offset=start, data=piece, sha256=sha256)


@asynccontextmanager
async def running(shelf: Shelf) -> AsyncGenerator[Target]:
    downloads = Downloads(settings=ModelSettings(), folder=shelf.folder, shelf=shelf, hive="here")
    receiving = Receiving(downloads)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            await tasks.start(downloads.run)
            tasks.start_soon(receiving.run)
            await anyio.wait_all_tasks_blocked()
            yield Target(downloads, receiving)
            tasks.cancel_scope.cancel()


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    yield made
    made.close()


async def test_pieces_in_any_order_and_twice(shelf: Shelf) -> None:
    async with running(shelf) as target:
        key, offsets = await target.receiving.begin(ORDER)
        assert offsets == {"m.gguf": 0}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(target.put, key, HALF, len(MODEL))
            await anyio.wait_all_tasks_blocked()
            assert await target.put(key, 0, HALF) == {"m.gguf": HALF}
        assert await target.put(key, 100, HALF + 100) == {"m.gguf": len(MODEL)}
        ended = await target.receiving.finish(key)
        assert ended.state == TransferState.DONE
        entry = await shelf.entry(ORDER.ref)
    assert entry.provider == "copy"
    assert place_of(shelf.folder, ORDER).read_bytes() == MODEL


async def test_one_that_is_here_needs_no_piece(shelf: Shelf) -> None:
    async with running(shelf) as target:
        key, _ = await target.receiving.begin(ORDER)
        await target.put(key, 0, len(MODEL))
        await target.receiving.finish(key)
        key, offsets = await target.receiving.begin(ORDER)
        assert offsets == {"m.gguf": len(MODEL)}
        assert (await target.receiving.finish(key)).state == TransferState.DONE


async def test_hole_is_refused_with_where_to_go_on(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rbee.daemons.hive.receiving.ORDER_LIMIT", 0.05)
    async with running(shelf) as target:
        key, _ = await target.receiving.begin(ORDER)
        await target.put(key, 0, 100)
        with pytest.raises(Conflict) as refused:
            await target.put(key, HALF, len(MODEL))
        assert refused.value.details["offsets"] == {"m.gguf": 100}
        with pytest.raises(Conflict) as refused:
            await target.receiving.finish(key)
        assert refused.value.details["offsets"] == {"m.gguf": 100}


async def test_damaged_piece_is_refused_and_changes_nothing(shelf: Shelf) -> None:
    async with running(shelf) as target:
        key, _ = await target.receiving.begin(ORDER)
        with pytest.raises(ValidationFailed, match="changed on its way"):
            await target.receiving.take(
                key, file="m.gguf", offset=0, data=MODEL[:100], sha256="0" * 64
            )
        with pytest.raises(ValidationFailed, match="too long"):
            await target.put(key, 1, len(MODEL) + 1, data=MODEL + b"x")
        with pytest.raises(NotFound):
            await target.put(key, 0, 100, file="../m.gguf")
        assert (await target.receiving.begin(ORDER))[1] == {"m.gguf": 0}


async def test_wrong_whole_file_is_gone_and_can_be_sent_again(shelf: Shelf) -> None:
    wrong = MODEL[:-1] + b"?"
    async with running(shelf) as target:
        key, _ = await target.receiving.begin(ORDER)
        await target.put(key, 0, len(MODEL), data=wrong)
        with pytest.raises(DownloadFailed) as failed:
            await target.receiving.finish(key)
        assert failed.value.details["expected"] == ORDER.files[0].sha256
        assert failed.value.details["got"] == hashlib.sha256(wrong).hexdigest()
        assert (await target.receiving.begin(ORDER)) == (key, {"m.gguf": 0})
        await target.put(key, 0, len(MODEL))
        assert (await target.receiving.finish(key)).state == TransferState.DONE


async def test_what_is_no_model_is_removed(shelf: Shelf) -> None:
    junk = b"GGUF" + noise(1000)
    order = order_for(None, {"m.gguf": junk})
    async with running(shelf) as target:
        key, _ = await target.receiving.begin(order)
        await target.put(key, 0, len(junk), data=junk)
        with pytest.raises(ModelCorrupted):
            await target.receiving.finish(key)
        assert target.downloads.infos()[0].state == TransferState.FAILED
    assert not place_of(shelf.folder, order).exists()
    assert not folder_of(shelf.folder, order).exists()


async def test_cancel_and_the_end_of_the_hive_keep_what_has_come(shelf: Shelf) -> None:
    async with running(shelf) as target:
        key, _ = await target.receiving.begin(ORDER)
        await target.put(key, 0, 1000)
        assert (await target.downloads.cancel(key)).state == TransferState.CANCELLED
        with pytest.raises(NotFound):
            await target.put(key, 1000, 2000)
        assert await target.receiving.begin(ORDER) == (key, {"m.gguf": 1000})
        await target.put(key, 1000, HALF)
    async with running(shelf) as target:
        assert await target.receiving.begin(ORDER) == (key, {"m.gguf": HALF})
        await target.put(key, HALF, len(MODEL))
        assert (await target.receiving.finish(key)).state == TransferState.DONE


async def test_model_that_is_not_of_the_hub_has_a_place_of_its_own(shelf: Shelf) -> None:
    order = order_for(None, {"m.gguf": MODEL}, ref="ollama:tiny")
    assert place_of(shelf.folder, order).parent.parent == shelf.folder / "copy"
    async with running(shelf) as target:
        key, _ = await target.receiving.begin(order)
        await target.put(key, 0, len(MODEL))
        assert (await target.receiving.finish(key)).state == TransferState.DONE
    assert place_of(shelf.folder, order).read_bytes() == MODEL


async def test_copy_and_download_of_one_model_exclude_each_other(
    hub: StandIn, shelf: Shelf
) -> None:
    order: DownloadOrder = order_for(hub, {"m.gguf": MODEL})
    hub.fault("m.gguf", "stall", at=1000)
    async with running(shelf) as target:
        key = (await target.downloads.start(order)).download_id
        with pytest.raises(Conflict, match="on its way"):
            await target.receiving.begin(ORDER)
        await target.downloads.cancel(key)
        assert (await target.receiving.begin(ORDER))[0] == key
        assert (await target.downloads.start(order)).state == TransferState.RUNNING
