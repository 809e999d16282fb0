"""Responses that are kept: for their owner, for their time, and no more of them than allowed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from rbee.daemons.queen import responses_store
from rbee.daemons.queen.responses_store import Kept, ResponseStore
from rbee.errors import NotFound

pytestmark = pytest.mark.anyio
KEPT = Kept({"id": "resp_1", "n": 1}, [{"role": "user", "content": "secret words"}])


class Time:
    """`now` and `retention` are set by the test."""

    def __init__(self, retention: float = 60.0) -> None:
        self.now = 1000.0
        self.retention = retention

    def store(self, folder: Path) -> ResponseStore:
        return ResponseStore(
            folder / "responses.db", utc=lambda: self.now, retention=lambda: self.retention
        )


async def rows(folder: Path) -> int:
    def count() -> int:
        with closing(sqlite3.connect(folder / "responses.db")) as db:
            return db.execute("SELECT count(*) FROM responses").fetchone()[0]

    return await anyio.to_thread.run_sync(count)


async def written(folder: Path) -> bytes:
    """All that is in its files."""

    def read() -> bytes:
        return b"".join([file.read_bytes() for file in folder.iterdir()])

    return await anyio.to_thread.run_sync(read)


async def test_a_later_queen_has_it_too(tmp_path: Path) -> None:
    time = Time()
    await time.store(tmp_path).keep("resp_1", KEPT, owner="")
    assert await time.store(tmp_path).get("resp_1", owner="") == KEPT
    assert (tmp_path / "responses.db").stat().st_mode & 0o777 == 0o600


async def test_it_is_its_owners_only(tmp_path: Path) -> None:
    store = Time().store(tmp_path)
    await store.keep("resp_1", KEPT, owner="mine")
    for other in ("", "yours"):
        with pytest.raises(NotFound):
            await store.get("resp_1", owner=other)
        with pytest.raises(NotFound):
            await store.delete("resp_1", owner=other)
    await store.delete("resp_1", owner="mine")
    with pytest.raises(NotFound):
        await store.get("resp_1", owner="mine")


async def test_it_goes_when_its_time_is_over(tmp_path: Path) -> None:
    time = Time()
    store = time.store(tmp_path)
    await store.keep("resp_1", KEPT, owner="")
    time.now += 61
    with pytest.raises(NotFound):
        await store.get("resp_1", owner="")
    await store.keep("resp_2", KEPT, owner="")
    assert await rows(tmp_path) == 1


async def test_without_retention_nothing_is_written(tmp_path: Path) -> None:
    store = Time(retention=0).store(tmp_path)
    assert not store.keeps
    await store.keep("resp_1", KEPT, owner="")
    with pytest.raises(NotFound):
        await store.get("resp_1", owner="")
    assert await rows(tmp_path) == 0


async def test_the_oldest_give_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses_store, "MOST", 3)
    time = Time()
    store = time.store(tmp_path)
    for number in range(5):
        time.now += 1
        await store.keep(f"resp_{number}", KEPT, owner="")
    assert await rows(tmp_path) == 3
    assert await store.get("resp_4", owner="") == KEPT
    with pytest.raises(NotFound):
        await store.get("resp_1", owner="")


async def test_the_oldest_give_way_to_the_bytes_of_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses_store, "MOST_BYTES", 4600)
    time = Time()
    store = time.store(tmp_path)
    for number, size in enumerate((2000, 100, 2000, 2500)):
        time.now += 1
        large = Kept({}, [{"role": "user", "content": "x" * size}])
        await store.keep(f"resp_{number}", large, owner="")
    assert await rows(tmp_path) == 2
    for number in (0, 1):
        with pytest.raises(NotFound):
            await store.get(f"resp_{number}", owner="")


@pytest.mark.parametrize("how", ["expired", "not wanted any more"])
async def test_a_purge_leaves_nothing_on_disk(how: str, tmp_path: Path) -> None:
    time = Time()
    store = time.store(tmp_path)
    await store.purge()
    assert await written(tmp_path) == b""
    await store.keep("resp_1", KEPT, owner="")
    await store.purge()
    assert await rows(tmp_path) == 1
    if how == "expired":
        time.now += 60
    else:
        time.retention = 0
    await time.store(tmp_path).purge()
    assert await rows(tmp_path) == 0
    assert b"secret words" not in await written(tmp_path)


async def test_what_is_too_large_is_not_kept(tmp_path: Path) -> None:
    store = Time().store(tmp_path)
    large = Kept({}, [{"role": "user", "content": "x" * responses_store.LARGEST}])
    await store.keep("resp_1", large, owner="")
    with pytest.raises(NotFound):
        await store.get("resp_1", owner="")
