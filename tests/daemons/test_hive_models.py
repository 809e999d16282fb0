"""A hive's models over its routes, in a process of its own as its queen speaks to it."""

from __future__ import annotations

import json
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.parse import quote

import pytest

from rbee.protocol.base import encode
from rbee.protocol.models import DownloadOrder
from rbee.protocol.workers import WorkerSpec
from tests.daemons.hive_process import HiveProcess
from tests.models.foreign_folders import hub_cache
from tests.models.orders import noise, order_for
from tests.support.home import wait_for
from tests.support.hub_fixture import StandIn
from tests.support.tiny_gguf import llama

MODEL = llama().data() + noise(100_000)
OTHER = llama(layers=1).data() + noise(100_000)


@pytest.fixture
def hive(tmp_path: Path) -> Iterator[HiveProcess]:
    with HiveProcess(tmp_path / "home") as process:
        yield process


class Events:
    """What the hive tells its queen, read beside the test."""

    def __init__(self, hive: HiveProcess) -> None:
        self._queue: Queue[dict[str, Any]] = Queue()
        threading.Thread(target=self._read, args=(hive,), daemon=True).start()

    def _read(self, hive: HiveProcess) -> None:
        assert hive.http is not None
        try:
            with hive.http.stream("GET", "/v1/telemetry/stream", timeout=None) as lines:
                for line in lines.iter_lines():
                    if line.startswith("data: "):
                        self._queue.put(json.loads(line.removeprefix("data: ")))
        except Exception as exc:  # the hive has ended
            self._queue.put({"type": "end", "why": str(exc)})

    def models(self) -> list[str]:
        """Names in the next list that is told; those that every hive has are left out."""
        while True:
            event = self._queue.get(timeout=40)
            assert event["type"] != "end", event
            if event["type"] == "models":
                return [m["id"] for m in event["models"] if not m["ref"].startswith("pkg:")]


def wanted(hub: StandIn, name: str, content: bytes) -> DownloadOrder:
    asked = f"hf:org/tiny:{name}"
    return order_for(hub, {f"{name}.gguf": content}, model_id=f"org/tiny:{name}", asked=asked)


def fetched(hive: HiveProcess, hub: StandIn, content: bytes = MODEL, name: str = "Q8_0") -> str:
    """The id of a model that the hive has fetched."""
    order = wanted(hub, name, content)
    ended = hive.follow(hive.download(order)["download_id"])
    assert ended["state"] == "done", ended
    return order.model_id


def verified(hive: HiveProcess, model: str) -> dict[str, Any]:
    """The last thing a check says."""
    assert hive.http is not None
    said: list[dict[str, Any]] = []
    with hive.http.stream("POST", "/v1/models/verify", json={"model": model}) as lines:
        assert lines.status_code == 200
        for line in lines.iter_lines():
            if line == "data: [DONE]":
                assert all({"done", "total", "file"} == set(one) for one in said[:-1])
                return said[-1]
            if line.startswith("data: "):
                said.append(json.loads(line.removeprefix("data: ")))
    raise AssertionError("no [DONE]")


def test_a_fetched_model_is_in_the_catalogue_and_told(hive, hub):
    events = Events(hive)
    assert events.models() == []
    model = fetched(hive, hub)
    assert events.models() == [model]
    entry = hive.json("GET", "/v1/models/entry", params={"model": model})
    assert (entry["id"], entry["provider"], entry["format"]) == (model, "hf", "gguf")
    assert entry["digest"].startswith("sha256:")
    assert None not in (entry["downloaded_at"], entry["verified_at"])
    assert Path(entry["path"]).read_bytes() == MODEL
    row = (
        sqlite3.connect(hive.home / "data/catalogue.db")
        .execute("SELECT id, provider, ref, path, size, downloaded_at FROM models")
        .fetchone()
    )
    assert row[:5] == (model, "hf", entry["ref"], entry["path"], len(MODEL))
    resolved = hive.json("POST", "/v1/models/resolve", json={"ref": entry["ref"]})
    assert (resolved["id"], resolved["digest"]) == (model, entry["digest"])
    listed = [m["id"] for m in hive.json("GET", "/v1/models")["models"]]
    assert model in listed


def test_it_is_there_after_a_restart_and_gone_when_its_file_is(hive, hub):
    model = fetched(hive, hub)
    path = Path(hive.json("GET", "/v1/models/entry", params={"model": model})["path"])
    hive.kill()
    hive.start()
    assert model in [m["id"] for m in hive.json("GET", "/v1/models")["models"]]
    path.unlink()
    missing = hive.ask("POST", "/v1/models/resolve", json={"ref": model})
    assert missing.status_code == 404, missing.text
    error = missing.json()["error"]
    assert f"{path} is gone" in error["message"]
    assert "rbee model download hf:org/tiny:Q8_0" in error["details"]["suggested_action"]
    assert model not in [m["id"] for m in hive.json("GET", "/v1/models")["models"]]
    assert "is gone" in hive.log.read_text()


def test_a_loss_that_a_question_brings_to_light_is_told_to_the_queen(hive, hub):
    model = fetched(hive, hub)
    path = Path(hive.json("GET", "/v1/models/entry", params={"model": model})["path"])
    events = Events(hive)
    assert events.models() == [model]
    path.unlink()
    assert hive.ask("POST", "/v1/models/resolve", json={"ref": model}).status_code == 404
    assert events.models() == []


def test_a_file_deleted_while_the_hive_is_down_is_noticed_at_its_start(hive, hub):
    model = fetched(hive, hub)
    path = Path(hive.json("GET", "/v1/models/entry", params={"model": model})["path"])
    hive.stop()
    path.unlink()
    hive.start()
    wait_for(lambda: "is gone" in hive.log.read_text(), limit=30, what="the loss is narrated")
    assert model not in [m["id"] for m in hive.json("GET", "/v1/models")["models"]]


def test_delete(hive, hub):
    model = fetched(hive, hub)
    kept = fetched(hive, hub, OTHER, name="Q4_0")
    path = Path(hive.json("GET", "/v1/models/entry", params={"model": model})["path"])
    events = Events(hive)
    assert set(events.models()) == {model, kept}
    deleted = hive.json("DELETE", f"/v1/models/{quote(model, safe='')}")
    assert deleted == {"model": model, "freed": len(MODEL), "message": f"{model} is deleted"}
    assert events.models() == [kept]
    assert not path.exists()
    again = hive.ask("DELETE", f"/v1/models/{model}")
    assert again.status_code in (400, 404)


def test_a_model_in_use_is_not_deleted(hive, hub):
    model = fetched(hive, hub)
    path = hive.json("GET", "/v1/models/entry", params={"model": model})["path"]
    spec = WorkerSpec(
        worker_id="w-07", model_id=model, model_path=path, format="gguf", backend="echo",
        device="cpu", slots=1, ctx=256,
    )  # fmt: skip
    assert hive.ask("POST", "/v1/workers/spawn", content=encode(spec)).status_code == 202
    refused = hive.ask("DELETE", f"/v1/models/{model}")
    assert refused.status_code == 409, refused.text
    error = refused.json()["error"]
    assert "in use by w-07" in error["message"]
    assert error["details"]["workers"] == ["w-07"]
    assert "rbee worker stop w-07" in error["details"]["suggested_action"]
    assert Path(path).exists()
    entry = hive.json("GET", "/v1/models/entry", params={"model": model})
    assert entry["used_at"] >= entry["downloaded_at"]
    hive.json("POST", "/v1/workers/w-07/stop", json={"force": True})
    assert hive.json("DELETE", f"/v1/models/{model}")["freed"] == len(MODEL)


def test_verify_tells_what_is_right_and_what_is_not(hive, hub):
    model = fetched(hive, hub)
    right = verified(hive, model)
    assert (right["model"], right["files"], right["hashed"]) == (model, 1, 1)
    assert (right["bytes"], right["problems"], right["hive"]) == (len(MODEL), [], "here")
    path = Path(hive.json("GET", "/v1/models/entry", params={"model": model})["path"])
    path.write_bytes(MODEL[:-1] + b"?")
    wrong = verified(hive, model)
    assert len(wrong["problems"]) == 1
    entry = hive.json("GET", "/v1/models/entry", params={"model": model})
    assert (entry["verified_at"], entry["digest"]) == (None, None)
    path.write_bytes(MODEL)
    assert verified(hive, model)["problems"] == []
    entry = hive.json("GET", "/v1/models/entry", params={"model": model})
    assert entry["digest"].startswith("sha256:")


def test_gc_clears_what_was_begun(hive, hub):
    hub.fault("gguf", "stall", at=3_000_000)
    order = wanted(hub, "Q8_0", MODEL + noise(6_000_000))
    key = hive.download(order)["download_id"]
    hive.follow(key, until=1_000_000)
    assert hive.json("POST", "/v1/models/gc", json={"dry_run": False})["partial"] == []
    hive.json("DELETE", f"/v1/models/download/{key}")
    told = hive.json("POST", "/v1/models/gc", json={"dry_run": True})
    assert (told["partial"], told["dry_run"]) == ([order.model_id], True)
    assert told["freed"] >= 1_000_000
    assert hive.json("POST", "/v1/models/gc", json={})["partial"] == [order.model_id]
    assert hive.json("POST", "/v1/models/gc", json={})["partial"] == []


def test_foreign_and_import(hive):
    path = hive.home / ".lmstudio/models/pub/repo/Own.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(MODEL)
    (told,) = hive.json("GET", "/v1/models/foreign")["models"]
    assert (told["name"], told["provider"], told["problem"]) == ("Own", "lmstudio", "")
    assert told["known_as"] is None
    events = Events(hive)
    assert events.models() == []
    entry = hive.json("POST", "/v1/models/import", json={"path": str(path), "name": "mine"})
    assert (entry["id"], entry["provider"]) == ("mine", "lmstudio")
    assert events.models() == ["mine"]
    (told,) = hive.json("GET", "/v1/models/foreign")["models"]
    assert told["known_as"] == "mine"
    assert hive.json("POST", "/v1/models/import", json={"path": str(path)}) == entry
    hive.json("DELETE", "/v1/models/mine")
    assert path.read_bytes() == MODEL


def test_an_unknown_file_in_the_models_folder_is_offered(hive):
    path = hive.home / "data/models/dropped.gguf"
    path.write_bytes(MODEL)
    (told,) = hive.json("GET", "/v1/models/foreign")["models"]
    assert (told["provider"], told["path"]) == ("file", str(path))
    entry = hive.json("POST", "/v1/models/import", json={"path": str(path)})
    assert entry["linked"] is True
    deleted = hive.json("DELETE", "/v1/models/dropped")
    assert deleted["freed"] == 0
    assert "left alone" in deleted["message"]
    assert path.exists()


def test_the_hub_cache_spares_a_download(tmp_path, hub):
    order = order_for(hub, {"m.gguf": MODEL})
    with HiveProcess(tmp_path / "home") as hive:
        repo = order.ref.removeprefix("hf:").partition("@")[0]
        cache = hive.home / ".cache/huggingface/hub"
        snapshot = hub_cache(cache, repo, {"m.gguf": MODEL}, commit=order.revision)
        before = len(hub.log())
        ended = hive.follow(hive.download(order)["download_id"])
        assert ended["state"] == "done"
        assert len(hub.log()) == before
        entry = hive.json("GET", "/v1/models/entry", params={"model": order.model_id})
        assert Path(entry["path"]).samefile(snapshot / "m.gguf")


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system")
def test_a_hub_cache_on_another_disk_is_referred_to(tmp_path, hub):
    order = order_for(hub, {"m.gguf": MODEL})
    repo = order.ref.removeprefix("hf:").partition("@")[0]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as far:
        if Path(far).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("/dev/shm is the same file system")
        snapshot = hub_cache(Path(far), repo, {"m.gguf": MODEL}, commit=order.revision)
        with HiveProcess(tmp_path / "home", HF_HUB_CACHE=far) as hive:
            before = len(hub.log())
            assert hive.follow(hive.download(order)["download_id"])["state"] == "done"
            assert len(hub.log()) == before
            entry = hive.json("GET", "/v1/models/entry", params={"model": order.model_id})
            assert (entry["path"], entry["linked"]) == (str(snapshot / "m.gguf"), True)
            hive.json("DELETE", f"/v1/models/{order.model_id}")
            (snapshot / "m.gguf").resolve().write_bytes(MODEL[:-1] + b"?")
            assert hive.follow(hive.download(order)["download_id"])["state"] == "done"
            entry = hive.json("GET", "/v1/models/entry", params={"model": order.model_id})
            assert entry["linked"] is False
            assert Path(entry["path"]).read_bytes() == MODEL


def test_the_quota_takes_the_least_recently_used(tmp_path, hub):
    limit = (len(MODEL) * 2 + 10_000) / 1e9
    with HiveProcess(tmp_path / "home", RBEE_MODELS_QUOTA_GB=f"{limit:.9f}") as hive:
        first = fetched(hive, hub, MODEL, name="Q2_K")
        second = fetched(hive, hub, MODEL[:-1] + b"2", name="Q3_K")
        third = fetched(hive, hub, MODEL[:-1] + b"3", name="Q4_0")
        listed = {m["id"] for m in hive.json("GET", "/v1/models")["models"]}
        assert {second, third} <= listed
        assert first not in listed
        assert "within the quota" in hive.log.read_text()


def test_a_damaged_catalogue_is_set_aside_and_the_hive_lives(tmp_path):
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    (home / "data/catalogue.db").write_bytes(b"rubbish " * 2000)
    with HiveProcess(home) as hive:
        assert hive.json("GET", "/v1/models")["models"]
        assert list((home / "data").glob("catalogue.db.corrupt-*"))


def test_a_catalogue_that_cannot_be_used_leaves_packaged_models(tmp_path):
    home = tmp_path / "home"
    (home / "data/catalogue.db").mkdir(parents=True)
    with HiveProcess(home) as hive:
        assert "echo" in {m["id"] for m in hive.json("GET", "/v1/models")["models"]}
        refused = hive.ask("POST", "/v1/models/gc", json={})
        assert refused.status_code == 500
        assert "cannot be used" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/models/entry", None),
        ("GET", "/v1/models/entry?model=" + "x" * 600, None),
        ("GET", "/v1/models/entry?model=a%0Ab", None),
        ("DELETE", "/v1/models/" + "x" * 600, None),
        ("POST", "/v1/models/verify", {}),
        ("POST", "/v1/models/verify", {"model": ""}),
        ("POST", "/v1/models/verify", {"model": "/etc/passwd"}),
        ("POST", "/v1/models/gc", {"dry_run": "yes"}),
        ("POST", "/v1/models/gc", {"other": 1}),
        ("POST", "/v1/models/import", {"path": "x"}),
        ("POST", "/v1/models/import", {}),
        ("POST", "/v1/models/resolve", {"ref": "x" * 5000}),
    ],
)
def test_bad_requests(shared, method, path, body):
    more = {} if body is None else {"json": body}
    assert shared.ask(method, path, **more).status_code == 400


def test_routes_need_the_token(shared):
    for method, path in (
        ("GET", "/v1/models"),
        ("DELETE", "/v1/models/x"),
        ("POST", "/v1/models/gc"),
        ("POST", "/v1/models/import"),
        ("GET", "/v1/models/foreign"),
        ("POST", "/v1/models/verify"),
    ):
        assert shared.ask(method, path, headers={"Authorization": "Bearer x"}).status_code == 401


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HiveProcess]:
    with HiveProcess(tmp_path_factory.mktemp("shared")) as process:
        yield process
