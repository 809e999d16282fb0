"""A hive as a process: its routes for transfers, kill -9 in the middle, copies to another hive."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from rbee.models.transfer_names import folder_of, place_of
from rbee.protocol.base import encode
from rbee.protocol.models import DownloadOrder
from tests.daemons.hive_process import HiveProcess
from tests.models.orders import noise, order_for, ranges
from tests.support.hub_fixture import StandIn
from tests.support.tiny_gguf import llama

MODEL = llama().data() + noise(6_000_000)
PIECE = 1 << 20


def models(hive: HiveProcess) -> Path:
    return hive.home / "data/models"


def test_kill_9_in_the_middle_then_it_goes_on(hub: StandIn, tmp_path: Path) -> None:
    order = order_for(hub, {"m.gguf": MODEL})
    part = folder_of(tmp_path / "data/models", order) / "part/m.gguf"
    hub.fault("m.gguf", "stall", at=3_000_000)
    with HiveProcess(tmp_path) as hive:
        key = hive.download(order)["download_id"]
        hive.follow(key, until=1_000_000)
        hive.kill()
        kept = part.stat().st_size
        assert 1_000_000 <= kept <= 3_000_000
        hive.start()
        assert hive.json("GET", "/v1/models/download") == {"downloads": []}
        assert hive.download(order)["download_id"] == key
        ended = hive.follow(key)
        assert (ended["state"], ended["bytes_done"]) == ("done", len(MODEL))
        assert ranges(hub) == [None, f"bytes={kept}-"]
        assert place_of(models(hive), order).read_bytes() == MODEL
        resolved = hive.json("POST", "/v1/models/resolve", json={"ref": order.ref})
        assert resolved["path"] == str(place_of(models(hive), order))
        assert hive.download(order)["state"] == "done"
        assert len(hub.log()) == 4, "it was fetched again"


def test_routes_cancel_and_refuse(hub: StandIn, tmp_path: Path) -> None:
    order = order_for(hub, {"m.gguf": MODEL})
    hub.fault("m.gguf", "stall", at=3_000_000)
    with HiveProcess(tmp_path) as hive:
        key = hive.download(order)["download_id"]
        hive.follow(key, until=1_000_000)
        cancelled = hive.json("DELETE", f"/v1/models/download/{key}")
        assert cancelled["state"] == "cancelled"
        assert cancelled["bytes_done"] >= 1_000_000
        assert [d["state"] for d in hive.json("GET", "/v1/models/download")["downloads"]] == [
            "cancelled"
        ]
        for method, path in [
            ("GET", "/v1/models/download/none/progress"), ("DELETE", "/v1/models/download/none"),
            ("PUT", "/v1/models/receive/none?file=m.gguf&offset=0"),
            ("POST", "/v1/models/receive/none/finish"),
        ]:  # fmt: skip
            assert hive.ask(method, path).status_code == 404, path
        hostile = msgspec.structs.replace(order.files[0], name="../../m.gguf")
        body = encode(msgspec.structs.replace(order, files=[hostile]))
        for path in ("/v1/models/download", "/v1/models/receive"):
            assert hive.ask("POST", path, content=body).status_code == 400
            assert hive.ask("POST", path, content=b"{}").status_code == 400
            bare = hive.ask("POST", path, content=body, headers={"Authorization": ""})
            assert bare.status_code == 401
        assert "Signature" not in hive.log.read_text("utf-8")


def test_no_signature_reaches_the_log(hub: StandIn, tmp_path: Path) -> None:
    order = order_for(hub, {"m.gguf": MODEL})
    hub.fault("/cdn/", "status", status=403)
    with HiveProcess(tmp_path, RBEE_LOG_LEVEL="debug") as hive:
        failed = hive.follow(hive.download(order)["download_id"])
        assert failed["error"]["details"]["expired"] is True
        assert hive.follow(hive.download(order)["download_id"])["state"] == "done"
        text = hive.log.read_text("utf-8") + str(failed)
    assert "download" in text
    for secret in ("Signature", "Key-Pair-Id", "Expires="):
        assert secret not in text


def test_copy_from_hive_to_hive_goes_on_after_kill_9(hub: StandIn, tmp_path: Path) -> None:
    order = order_for(hub, {"m.gguf": MODEL})
    with HiveProcess(tmp_path / "a", "a") as source, HiveProcess(tmp_path / "b", "b") as target:
        source.follow(source.download(order)["download_id"])
        hub.forget()
        bare = msgspec.structs.replace(order.files[0], url="")
        copy = msgspec.structs.replace(order, files=[bare])
        key, offset = begin(target, copy)
        assert offset == 0
        for at in range(0, 3 * PIECE, PIECE):
            carry(source, target, copy, key, at)
        listed = target.json("GET", "/v1/models/download")["downloads"]
        assert [(d["state"], d["bytes_done"]) for d in listed] == [("running", 3 * PIECE)]
        target.kill()
        target.start()
        key, offset = begin(target, copy)
        assert offset == 3 * PIECE
        for at in range(offset, len(MODEL), PIECE):
            carry(source, target, copy, key, at)
        done = target.json("POST", f"/v1/models/receive/{key}/finish")
        assert done["state"] == "done"
        again = target.json("POST", f"/v1/models/receive/{key}/finish")
        assert again["state"] == "done", "a reply that was lost cannot be asked for again"
        assert place_of(models(target), copy).read_bytes() == MODEL
        entry = target.json("GET", "/v1/models/entry", params={"model": order.ref})
        assert entry["provider"] == "copy"
        assert hub.log() == []


def begin(target: HiveProcess, order: DownloadOrder) -> tuple[str, int]:
    told = target.json("POST", "/v1/models/receive", content=encode(order))
    return told["download_id"], told["offsets"]["m.gguf"]


def carry(
    source: HiveProcess, target: HiveProcess, order: DownloadOrder, key: str, at: int
) -> None:
    params = {"model": order.ref, "file": "m.gguf", "offset": at, "length": PIECE}
    piece = source.ask("GET", "/v1/models/content", params=params)
    assert piece.status_code == 200, piece.text
    assert piece.headers["X-Rbee-Sha256"] == hashlib.sha256(piece.content).hexdigest()
    told = target.json(
        "PUT", f"/v1/models/receive/{key}", params={"file": "m.gguf", "offset": at},
        content=piece.content, headers={"X-Rbee-Sha256": piece.headers["X-Rbee-Sha256"]},
    )  # fmt: skip
    assert told["offsets"] == {"m.gguf": at + len(piece.content)}


def test_content_is_that_of_the_models_files_only(hub: StandIn, tmp_path: Path) -> None:
    order = order_for(hub, {"m.gguf": MODEL})
    (tmp_path / "secret").write_text("not for others")
    with HiveProcess(tmp_path) as hive:
        hive.follow(hive.download(order)["download_id"])

        def status(**changes: object) -> int:
            params = {"model": order.ref, "file": "m.gguf", "offset": 0, "length": 10, **changes}
            return hive.ask("GET", "/v1/models/content", params=params).status_code  # type: ignore[arg-type]

        assert status() == 200
        assert status(offset=len(MODEL) - 1) == 200
        assert status(file="../secret") == 404
        assert status(file="/etc/passwd") == 404
        assert status(file="") == 404
        assert status(model="hf:org/none") == 404
        assert status(offset=len(MODEL)) == 400
        assert status(offset=-1) == 400
        assert status(length=0) == 400
        assert status(length=(8 << 20) + 1) == 400
