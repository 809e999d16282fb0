"""Fetching against the hub stand-in: cuts, stalls, refusals, wrong bytes, and what is kept."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import anyio
import msgspec
import pytest

from rbee.errors import DownloadFailed, ValidationFailed
from rbee.models.download import Progress, fetch, missing_bytes
from rbee.models.transfer_names import place_of
from rbee.models.transfer_pace import Limits
from rbee.models.transfer_partial import Folder
from rbee.protocol.models import CatalogueFile, DownloadOrder
from tests.models.orders import noise as make
from tests.models.orders import order_for, ranges
from tests.support.hub_fixture import StandIn

pytestmark = pytest.mark.anyio
QUICK = Limits(first_pause=0.001, margin=0)
SIZE = 3_000_001
FORTY = SIZE * 2 // 5
DATA = make(SIZE)


class Seen:
    """What was reported."""

    def __init__(self) -> None:
        self.all: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        self.all.append(progress)

    @property
    def messages(self) -> list[str]:
        return [progress.message for progress in self.all if progress.message]


async def get(
    order: DownloadOrder, folder: Path, seen: Seen | None = None, limits: Limits = QUICK
) -> list[CatalogueFile]:
    return await fetch(order, folder, report=seen or Seen(), limits=limits)


def one(hub: StandIn, data: bytes = DATA) -> DownloadOrder:
    return order_for(hub, {"m.Q4_K_M.gguf": data})


async def test_whole_file_is_fetched_checked_and_told(hub: StandIn, tmp_path: Path) -> None:
    order, seen = one(hub), Seen()
    files = await get(order, tmp_path / "p", seen)
    path = tmp_path / "p/files/m.Q4_K_M.gguf"
    assert path.read_bytes() == DATA
    assert files == [
        CatalogueFile(name=path.name, size=SIZE, sha256=hashlib.sha256(DATA).hexdigest())
    ]
    assert seen.all[-1].done == seen.all[-1].total == SIZE
    assert ranges(hub) == [None]
    assert all(not request["authorized"] for request in hub.log())


async def test_cut_at_40_percent_goes_on_from_there(hub: StandIn, tmp_path: Path) -> None:
    order, seen = one(hub), Seen()
    hub.fault("m.Q4", "cut", at=FORTY)
    await get(order, tmp_path / "p", seen)
    assert (tmp_path / "p/files/m.Q4_K_M.gguf").read_bytes() == DATA
    assert ranges(hub) == [None, f"bytes={FORTY}-"]
    assert any("the connection was cut; try 2 of 6" in text for text in seen.messages)


async def test_six_tries_then_it_has_failed_and_is_kept(hub: StandIn, tmp_path: Path) -> None:
    order = one(hub)
    hub.fault("m.Q4", "cut", at=FORTY)
    hub.fault("m.Q4", "cut", at=0, times=0)
    with pytest.raises(DownloadFailed) as failed:
        await get(order, tmp_path / "p")
    assert failed.value.details["attempts"] == 6
    assert failed.value.details["expired"] is False
    assert "1.2 of 3.0 MB" in failed.value.message
    assert ranges(hub) == [None, *[f"bytes={FORTY}-"] * 5]
    assert not list((tmp_path / "p/files").rglob("*"))
    assert await anyio.to_thread.run_sync(missing_bytes, order, tmp_path / "p") == SIZE - FORTY
    hub.heal()
    hub.forget()
    await get(order, tmp_path / "p")
    assert ranges(hub) == [f"bytes={FORTY}-"]
    assert (tmp_path / "p/files/m.Q4_K_M.gguf").read_bytes() == DATA


async def test_tries_count_anew_as_long_as_it_gets_further(hub: StandIn, tmp_path: Path) -> None:
    order = one(hub)
    hub.fault("m.Q4", "cut", at=300_000, times=8)
    await get(order, tmp_path / "p")
    assert ranges(hub) == [None, *[f"bytes={300_000 * n}-" for n in range(1, 9)]]


async def test_server_without_ranges_that_always_cuts_is_given_up(
    hub: StandIn, tmp_path: Path
) -> None:
    """Each try brings bytes, but none gets further than the first."""
    order = one(hub)
    served = 0

    async def serve(stream: anyio.abc.SocketStream) -> None:
        nonlocal served
        async with stream:
            await stream.receive()
            served += 1
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"
            await stream.send(head.encode() + DATA[:FORTY])

    async with anyio.create_task_group() as tasks:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.start_soon(listener.serve, serve)
        file = msgspec.structs.replace(order.files[0], url=f"http://127.0.0.1:{port}/m")
        with pytest.raises(DownloadFailed) as failed:
            await get(msgspec.structs.replace(order, files=[file]), tmp_path / "p")
        tasks.cancel_scope.cancel()
    await listener.aclose()
    assert failed.value.details["attempts"] == 6
    assert served == 6


async def test_answer_200_to_a_range_begins_anew(hub: StandIn, tmp_path: Path) -> None:
    """The content has another etag now, so what is here is of no use."""
    order = one(hub)
    hub.fault("m.Q4", "cut", at=FORTY)
    hub.fault("m.Q4", "cut", at=0, times=5)
    with pytest.raises(DownloadFailed):
        await get(order, tmp_path / "p")
    hub.heal()
    hub.forget()
    other = make(SIZE, 2)
    await get(one(hub, other), tmp_path / "p")
    assert (tmp_path / "p/files/m.Q4_K_M.gguf").read_bytes() == other
    assert ranges(hub) == [f"bytes={FORTY}-"]


async def test_stall_counts_as_a_failed_try(hub: StandIn, tmp_path: Path) -> None:
    order, seen = one(hub), Seen()
    hub.fault("m.Q4", "stall", at=FORTY)
    limits = replace(QUICK, stall=0.5)
    await get(order, tmp_path / "p", seen, limits)
    assert ranges(hub) == [None, f"bytes={FORTY}-"]
    assert any("nothing came for 0.5 s" in text for text in seen.messages)


async def test_wrong_bytes_once_are_fetched_once_more(hub: StandIn, tmp_path: Path) -> None:
    order, seen = one(hub), Seen()
    hub.fault("m.Q4", "wrong_bytes", at=1000)
    await get(order, tmp_path / "p", seen)
    assert (tmp_path / "p/files/m.Q4_K_M.gguf").read_bytes() == DATA
    assert ranges(hub) == [None, None]
    assert any("wrong bytes" in text for text in seen.messages)


async def test_wrong_bytes_twice_fail_with_both_hashes(hub: StandIn, tmp_path: Path) -> None:
    order = one(hub)
    hub.fault("m.Q4", "wrong_bytes", at=1000, times=0)
    with pytest.raises(DownloadFailed) as failed:
        await get(order, tmp_path / "p")
    details = failed.value.details
    assert details["expected"] == order.files[0].sha256
    assert len(details["got"]) == 64
    assert details["got"] != details["expected"]
    assert details["got"] in failed.value.message
    assert ranges(hub) == [None, None]
    assert not list((tmp_path / "p/files").rglob("*"))
    assert await anyio.to_thread.run_sync(missing_bytes, order, tmp_path / "p") == SIZE


async def test_damaged_partial_is_noticed_and_fetched_anew(hub: StandIn, tmp_path: Path) -> None:
    order = one(hub)
    hub.fault("m.Q4", "cut", at=FORTY)
    hub.fault("m.Q4", "cut", at=0, times=5)
    with pytest.raises(DownloadFailed):
        await get(order, tmp_path / "p")
    hub.heal()
    part = tmp_path / "p/part/m.Q4_K_M.gguf"
    part.write_bytes(b"\0" * FORTY)
    await get(order, tmp_path / "p")
    assert (tmp_path / "p/files/m.Q4_K_M.gguf").read_bytes() == DATA


async def test_partial_longer_than_the_file_begins_anew(hub: StandIn, tmp_path: Path) -> None:
    order = one(hub)
    part = tmp_path / "p/part/m.Q4_K_M.gguf"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"\0" * (SIZE + 1))
    await get(order, tmp_path / "p")
    assert ranges(hub) == [None]


async def test_busy_server_is_asked_again_when_it_says(hub: StandIn, tmp_path: Path) -> None:
    order, seen = one(hub), Seen()
    hub.fault("m.Q4", "status", status=429, headers={"Retry-After": "30"}, times=2)
    hub.fault("m.Q4", "status", status=503, headers={"Retry-After": "nonsense"})
    await get(order, tmp_path / "p", seen, replace(QUICK, longest_wait=0.02))
    assert [r["status"] for r in hub.log() if r["origin"] == "hub"] == [429, 429, 503, 302]
    assert "127.0.0.1 answers 429; try 2 of 6 in 0.0 s" in seen.messages[0]


async def test_retry_after_is_honoured_up_to_the_limit(hub: StandIn, tmp_path: Path) -> None:
    order, seen = one(hub), Seen()
    hub.fault("m.Q4", "status", status=429, headers={"Retry-After": "1"})
    await get(order, tmp_path / "p", seen)
    assert "try 2 of 6 in 1.0 s" in seen.messages[0]


@pytest.mark.parametrize(("status", "expired"), [(401, True), (403, True), (404, False)])
async def test_refusals_are_not_tried_again(
    hub: StandIn, tmp_path: Path, status: int, expired: bool
) -> None:
    order = one(hub)
    hub.fault("m.Q4", "status", status=status, times=0)
    with pytest.raises(DownloadFailed) as failed:
        await get(order, tmp_path / "p")
    assert failed.value.details["expired"] is expired
    assert f"answers {status}" in failed.value.message
    assert len(hub.log()) == 1


async def test_expired_signature_is_told_and_a_new_address_goes_on(
    hub: StandIn, tmp_path: Path
) -> None:
    import httpx

    order = one(hub)
    page = order.files[0].url

    def signed() -> DownloadOrder:
        place = httpx.get(page, trust_env=False).headers["location"]
        file = msgspec.structs.replace(order.files[0], url=place)
        return msgspec.structs.replace(order, files=[file])

    first = await anyio.to_thread.run_sync(signed)
    hub.fault("/cdn/", "cut", at=FORTY)
    hub.fault("/cdn/", "cut", at=0, times=5)
    with pytest.raises(DownloadFailed):
        await get(first, tmp_path / "p")
    hub.heal()
    hub.fault("", "expire")
    with pytest.raises(DownloadFailed) as failed:
        await get(first, tmp_path / "p")
    assert failed.value.details["expired"] is True
    assert "Signature" not in str(failed.value.body())
    hub.forget()
    await get(await anyio.to_thread.run_sync(signed), tmp_path / "p")
    assert ranges(hub) == [f"bytes={FORTY}-"]


async def test_wrong_size_at_the_server_is_final(hub: StandIn, tmp_path: Path) -> None:
    order = one(hub)
    hub.add("org/tiny", {"m.Q4_K_M.gguf": DATA + b"more"})
    with pytest.raises(DownloadFailed, match=r"3000005 bytes there, 3000001 were expected"):
        await get(order, tmp_path / "p")


async def test_redirects_end_somewhere_and_stay_on_http(hub: StandIn, tmp_path: Path) -> None:
    order = one(hub)
    hub.fault("m.Q4", "status", status=302, headers={"Location": order.files[0].url}, times=0)
    with pytest.raises(DownloadFailed):
        await get(order, tmp_path / "p")
    assert len(hub.log()) == 6
    hub.heal()
    hub.fault("m.Q4", "status", status=302, headers={"Location": "file:///etc/passwd"}, times=0)
    with pytest.raises(DownloadFailed, match="no http address"):
        await get(order, tmp_path / "p")


async def test_several_files_inline_content_and_one_rename(hub: StandIn, tmp_path: Path) -> None:
    shards = {f"model-0000{n}-of-00003.safetensors": make(400_000, n) for n in range(3)}
    order = order_for(hub, {**shards, "sub/empty": b""}, format="safetensors", name="x")
    config = b'{"model_type": "tiny"}'
    blob = hashlib.sha1(b"blob %d\0" % len(config) + config).hexdigest()
    inline = msgspec.structs.replace(
        order.files[0], name="config.json", size=len(config), sha256=None, git_sha1=blob, url="",
        content=config,
    )  # fmt: skip
    order = msgspec.structs.replace(order, files=[*order.files, inline])
    folder = Folder(tmp_path / "models/.partial/x")
    assert folder.hold(order)
    files = await get(order, folder.path)
    place = place_of(tmp_path / "models", order)
    assert not place.exists()
    await anyio.to_thread.run_sync(folder.publish, place)
    folder.release()
    assert {p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()} == {
        *shards, "sub/empty", "config.json",
    }  # fmt: skip
    assert (place / "config.json").read_bytes() == config
    assert [file.name for file in files] == [file.name for file in order.files]
    assert files[-1].sha256 == hashlib.sha256(config).hexdigest()
    assert not folder.path.exists()


async def test_git_hash_is_compared(hub: StandIn, tmp_path: Path) -> None:
    order = order_for(hub, {"m.gguf": b"some text"})
    wrong = msgspec.structs.replace(order.files[0], sha256=None, git_sha1="0" * 40)
    with pytest.raises(DownloadFailed, match="wrong bytes"):
        await get(msgspec.structs.replace(order, files=[wrong]), tmp_path / "p")


async def test_a_file_of_this_machine_is_linked_only_when_it_is_right(
    hub: StandIn, tmp_path: Path
) -> None:
    order = one(hub)
    here, damaged = tmp_path / "here", tmp_path / "damaged"
    here.write_bytes(DATA)
    damaged.write_bytes(DATA[:-1] + b"?")
    await fetch(order, tmp_path / "p", report=Seen(), limits=QUICK, found={"m.Q4_K_M.gguf": here})
    assert (tmp_path / "p/files/m.Q4_K_M.gguf").samefile(here)
    assert hub.log() == []
    await fetch(
        order, tmp_path / "q", report=Seen(), limits=QUICK, found={"m.Q4_K_M.gguf": damaged}
    )
    assert (tmp_path / "q/files/m.Q4_K_M.gguf").read_bytes() == DATA
    assert damaged.read_bytes() == DATA[:-1] + b"?", "another program's file was touched"


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/x", "a/../b", "a//b", "", ".", "a\\b", "c:/x", "a\nb", "x" * 256, "\ud800"],
)
async def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    order = order_for(None, {"m.gguf": b"x"})
    file = msgspec.structs.replace(order.files[0], name=name, url="http://127.0.0.1:1/")
    with pytest.raises(ValidationFailed):
        await get(msgspec.structs.replace(order, files=[file]), tmp_path / "p")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    "url", ["", "ftp://h/x", "file:///x", "http://u:p@h/x", "http://", "http://[/"]
)
async def test_addresses_that_are_none_are_refused_unrepeated(tmp_path: Path, url: str) -> None:
    order = order_for(None, {"m.gguf": b"x"})
    file = msgspec.structs.replace(order.files[0], url=url)
    with pytest.raises(ValidationFailed) as refused:
        await get(msgspec.structs.replace(order, files=[file]), tmp_path / "p")
    assert not url or url not in refused.value.message


async def test_one_order_has_one_process_at_a_time(tmp_path: Path) -> None:
    order = order_for(None, {"m.gguf": b"x"})
    first, second = Folder(tmp_path / "p"), Folder(tmp_path / "p")
    assert first.hold(order)
    assert not second.hold(order)
    first.release()
    assert second.hold(order)
    second.release()
