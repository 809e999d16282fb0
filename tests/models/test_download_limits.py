"""What a download may take of the disk and the line."""

from __future__ import annotations

import ctypes
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbee.errors import DownloadFailed, InsufficientDisk
from rbee.models.download import Progress, fetch, missing_bytes
from rbee.models.transfer_pace import MARGIN, Bandwidth, Limits
from rbee.protocol.base import encode
from rbee.protocol.models import DownloadOrder
from tests.models.orders import noise, order_for, ranges
from tests.support.hub_fixture import StandIn

pytestmark = pytest.mark.anyio
QUICK = Limits(first_pause=0.001, margin=0)
SIZE = 3_000_001
UNDER_A_LIMIT = """
import asyncio, json, resource, sys
from pathlib import Path
from rbee.errors import RbeeError
from rbee.models.download import fetch
from rbee.models.transfer_pace import Limits
from rbee.protocol.base import decode
from rbee.protocol.models import DownloadOrder

order = decode(sys.stdin.buffer.read(), DownloadOrder)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    asyncio.run(fetch(order, Path(sys.argv[1]), report=lambda _: None, limits=Limits(margin=0)))
except RbeeError as exc:
    print(json.dumps(exc.body()))
"""


def silent(_: Progress) -> None:
    """Nobody listens."""


async def test_no_room_is_said_before_anything_is_fetched(hub: StandIn, tmp_path: Path) -> None:
    size = 1 << 43
    order = order_for(hub, {"m.gguf": b"x"})
    file = order.files[0]
    huge = DownloadOrder(
        **{name: getattr(order, name) for name in order.__struct_fields__ if name != "files"},
        files=[type(file)(name=file.name, size=size, sha256=file.sha256, url=file.url)],
    )
    with pytest.raises(InsufficientDisk) as refused:
        await fetch(huge, tmp_path / "p", report=silent)
    assert refused.value.details["required"] == size + MARGIN
    assert 0 < refused.value.details["available"] < size
    assert "8,796,093 MB" not in refused.value.message
    assert "8,796,361 MB" in refused.value.message
    assert hub.log() == []


async def test_what_others_are_about_to_take_is_not_there(hub: StandIn, tmp_path: Path) -> None:
    order = order_for(hub, {"m.gguf": noise(1000)})
    with pytest.raises(InsufficientDisk):
        await fetch(order, tmp_path / "p", report=silent, limits=QUICK, reserved=1 << 50)
    await fetch(order, tmp_path / "p", report=silent, limits=QUICK)


async def test_disk_that_takes_no_more_keeps_what_it_has(hub: StandIn, tmp_path: Path) -> None:
    """A file size limit of the process: the system refuses the very write that crosses it."""
    data = noise(SIZE)
    order = order_for(hub, {"m.gguf": data})
    limit = 1_000_000
    done = subprocess.run(  # noqa: ASYNC221
        [sys.executable, "-c", UNDER_A_LIMIT, str(tmp_path / "p"), str(limit)],
        input=encode(order), capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "INSUFFICIENT_DISK"
    assert error["details"]["required"] == SIZE - limit
    assert (tmp_path / "p/part/m.gguf").read_bytes() == data[:limit]
    hub.forget()
    await fetch(order, tmp_path / "p", report=silent, limits=QUICK)
    assert ranges(hub) == [f"bytes={limit}-"]
    assert (tmp_path / "p/files/m.gguf").read_bytes() == data


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB; only who may mount has one."""
    libc = ctypes.CDLL(None, use_errno=True)
    place = tmp_path / "disk"
    place.mkdir()
    if libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"size=2m"):
        pytest.skip(f"no file system can be mounted here: {os.strerror(ctypes.get_errno())}")
    yield place
    libc.umount2(os.fsencode(place), 2)


async def test_disk_full_in_the_middle(hub: StandIn, small_disk: Path) -> None:
    """Another program takes the room that was there when it was looked at."""
    data = noise(1_500_000)
    order = order_for(hub, {"m.gguf": data})
    hog = small_disk / "hog"

    def fill(_: Progress) -> None:
        if not hog.exists():
            hog.write_bytes(b"x" * 1_000_000)

    hub.fault("m.gguf", "slow", rate=4_000_000)
    with pytest.raises(InsufficientDisk) as full:
        await fetch(order, small_disk / "p", report=fill, limits=QUICK)
    kept = (small_disk / "p/part/m.gguf").stat().st_size
    assert 0 < kept < len(data)
    assert full.value.details["required"] == len(data) - kept
    assert full.value.details["available"] < 4096
    hog.unlink()
    hub.forget()
    await fetch(order, small_disk / "p", report=silent, limits=QUICK)
    assert ranges(hub) == [f"bytes={kept}-"]
    assert (small_disk / "p/files/m.gguf").read_bytes() == data


async def test_folder_that_cannot_be_written_is_named(hub: StandIn, tmp_path: Path) -> None:
    order = order_for(hub, {"m.gguf": noise(1000)})
    (tmp_path / "p").mkdir()
    (tmp_path / "p/part").write_text("in the way")
    with pytest.raises(DownloadFailed, match="disk"):
        await fetch(order, tmp_path / "p", report=silent, limits=QUICK)
    assert missing_bytes(order, tmp_path / "p") == 1000


class Virtual:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def utc(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


async def test_bandwidth_is_shared_and_a_pause_earns_little() -> None:
    clock = Virtual()
    line = Bandwidth(1_000_000, clock=clock, sleep=clock.sleep)
    pieces = random.Random(3)
    taken = 0
    while taken < 10_000_000:
        piece = pieces.randint(1, 65_536)
        await line.take(piece)
        taken += piece
        assert taken <= (clock.now - 1000.0 + 0.25) * 1_000_000 + 65_536
    assert clock.now - 1000.0 == pytest.approx(taken / 1_000_000, rel=0.05)
    clock.now += 3600
    before = clock.now
    for _ in range(100):
        await line.take(10_000)
    assert clock.now - before == pytest.approx(0.75, abs=0.02)


async def test_no_limit_costs_nothing() -> None:
    clock = Virtual()
    await Bandwidth(0, clock=clock, sleep=clock.sleep).take(1 << 40)
    assert clock.now == 1000.0


async def test_download_keeps_to_the_bandwidth(hub: StandIn, tmp_path: Path) -> None:
    """Two files at once take, on the clock of the line, what their sum takes."""
    clock = Virtual()
    files = {f"{n}.gguf": noise(1_000_000, n) for n in range(2)}
    line = Bandwidth(500_000, clock=clock, sleep=clock.sleep)
    order = order_for(hub, files)
    await fetch(order, tmp_path / "p", report=silent, limits=QUICK, bandwidth=line)
    assert clock.now - 1000.0 == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("place", ["http://xn--a-ecp.ru/x", "file:///etc/passwd", "/again"])
async def test_an_address_that_leads_nowhere_is_told_as_such(
    hub: StandIn, tmp_path: Path, place: str
) -> None:
    order = order_for(hub, {"m.gguf": b"x" * 1000})
    hub.fault("m.gguf|again", "status", status=302, headers={"Location": place}, times=0)
    with pytest.raises(DownloadFailed, match="to no http address"):
        await fetch(order, tmp_path / "p", report=lambda _: None, limits=QUICK)
