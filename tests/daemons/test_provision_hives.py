"""Models on several machines: fetched where they are wanted, copied without the hub, checked, and
taken off; what people are told of it all."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rbee.sse import Decoder
from tests.support.colony import Colony
from tests.support.far import Far
from tests.support.home import Home, wait_for
from tests.support.hub_fixture import StandIn
from tests.support.tiny_gguf import llama
from tests.support.told import Told, follow

SIZE = 12_000_000
FILE, REF, ID = "tiny-Q4_0.gguf", "hf:org/tiny", "org/tiny:Q4_0"
DATA = llama().data() + random.Random(3).randbytes(SIZE)


class Pair:
    """A queen with her hive `home`, the machine `far` with a disk of its own, and a hub."""

    def __init__(self, folder: Path, hub: StandIn) -> None:
        hub.add("org/tiny", {FILE: DATA})
        self.hub = hub
        self.colony = Colony(Home(folder / "home", **hub.env))
        self.far = Far(self.colony, "far", folder / "far").start()

    def do(self, operation: str, **fields: Any) -> Told:
        """Have it done; its whole stream."""
        job_id = self.colony.post({"operation": operation, **fields})
        told = self.colony.follow(job_id)
        assert told.events[-1].data == "[DONE]"
        return told

    def result(self, operation: str, **fields: Any) -> dict[str, Any]:
        told = self.do(operation, **fields)
        assert told.end == "end", told.events[-2:]
        (result,) = told.of("result")
        return result

    def fails(self, operation: str, **fields: Any) -> dict[str, Any]:
        (error,) = self.do(operation, **fields).of("error")
        return error

    def get(self, path: str, **params: Any) -> httpx.Response:
        url = f"{self.colony.url}{path}"
        return httpx.get(
            url, params=params, headers=self.colony.home.owner, timeout=60, trust_env=False
        )

    def hives(self, model: str = ID) -> list[str]:
        found = {
            m["model"]["id"]: m["hives"] for m in self.get("/v1/catalog/models").json()["models"]
        }
        return sorted(found.get(model, []))

    def close(self) -> None:
        self.colony.close()
        self.far.close()


@pytest.fixture
def pair(tmp_path: Path, hub: StandIn) -> Iterator[Pair]:
    made = Pair(tmp_path, hub)
    yield made
    made.close()


def test_a_model_is_copied_between_machines_without_the_hub(pair: Pair) -> None:
    done = pair.result("model_download", model=REF, hive="home")
    assert (done["hive"], done["bytes"], done["already"]) == ("home", len(DATA), False)
    pair.hub.stop()
    told = pair.do("model_copy", model=ID, to_hive="far")
    (result,) = told.of("result")
    assert result == {"model": ID, "hive": "home", "to_hive": "far", "bytes": len(DATA)}
    assert "copying" in [status["stage"] for status in told.of("status")]
    (there,) = pair.far.models()
    assert there.read_bytes() == DATA
    wait_for(lambda: pair.hives() == ["far", "home"], what="both have it")
    assert pair.result("model_verify", model=ID, hive="far")["problems"] == []
    body = {"model": ID, "prompt": "we", "raw": True, "max_tokens": 3, "ignore_eos": True}
    answer = pair.do("infer", hive="far", **body)
    assert answer.of("started")[0]["hive"] == "far"
    again = pair.fails("model_copy", model=ID, hive="home", to_hive="home")
    assert again["code"] == "CONFLICT"
    assert pair.fails("model_delete", model=ID)["code"] == "CONFLICT", "which of the two?"


def test_a_download_to_another_machine_is_a_copy_when_one_has_it(pair: Pair) -> None:
    pair.result("model_download", model=REF, hive="far")
    assert not (pair.colony.home.path / "data" / "models" / "hf").exists()
    pair.hub.stop()
    done = pair.result("model_download", model=REF, hive="home")
    assert (done["hive"], done["copied_from"], done["bytes"]) == ("home", "far", len(DATA))
    assert pair.result("model_download", model=REF, hive="home")["already"] is True
    assert wait_for(lambda: pair.hives() == ["far", "home"])


def test_a_request_pinned_to_a_machine_without_the_model_is_told_how_it_gets_there(
    pair: Pair,
) -> None:
    pair.result("model_download", model=REF, hive="home")
    before = len(pair.hub.log())
    body = {"operation": "infer", "model": REF, "prompt": "we", "hive": "far"}
    reply = httpx.post(f"{pair.colony.url}/v1/jobs", json=body, timeout=30, trust_env=False)
    assert reply.status_code == 404
    error = reply.json()["error"]
    assert f"rbee model copy {ID} --to far" in error["details"]["suggested_action"]
    assert len(pair.hub.log()) == before


def test_what_was_taken_in_is_copied_and_the_same_model_on_both(pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    file.write_bytes(DATA)
    body = {"path": str(file), "hive": "home"}
    assert pair.colony.home.post("/v1/catalog/import", body).status_code == 200
    pair.result("model_copy", model="mine", to_hive="far")
    (there,) = pair.far.models()
    assert there.read_bytes() == DATA
    assert wait_for(lambda: pair.hives("mine") == ["far", "home"])
    (listed,) = [
        m["model"] for m in pair.get("/v1/catalog/models").json()["models"]
        if m["model"]["id"] == "mine"
    ]  # fmt: skip
    assert listed["digest"].startswith("sha256:")
    assert pair.result("model_copy", model="mine", to_hive="far")["already"] is True


def test_a_file_that_was_not_taken_in_is_not_copied(pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    file.write_bytes(DATA)
    refused = pair.fails("model_copy", model=f"file:{file}", hive="home", to_hive="far")
    assert (refused["code"], pair.far.models()) == ("CONFLICT", [])
    assert f"rbee model import {file} --hive home" in refused["details"]["suggested_action"]


def test_a_model_of_a_package_is_there_already_or_said_to_be_one(pair: Pair) -> None:
    done = pair.result("model_copy", model="smollm2-135m", to_hive="far")
    assert done["already"] is True
    assert pair.far.models() == []


def test_a_copy_that_was_cancelled_goes_on_where_it_stopped(pair: Pair) -> None:
    pair.result("model_download", model=REF, hive="home")
    folder = pair.far.home.path / "data" / "models" / ".partial"
    job = pair.colony.post({"operation": "model_copy", "model": ID, "to_hive": "far"})
    httpx.delete(f"{pair.colony.url}/v1/jobs/{job}", timeout=20, trust_env=False)
    told = pair.colony.follow(job)
    assert told.end in ("cancelled", "end")  # it may have been quicker
    assert pair.result("model_copy", model=ID, to_hive="far")["bytes"] == len(DATA)
    (there,) = pair.far.models()
    assert there.read_bytes() == DATA
    assert not list(folder.rglob("*.gguf"))


def test_a_machine_that_is_lost_in_mid_download_goes_on_when_it_is_back(pair: Pair) -> None:
    pair.hub.fault(FILE, "slow", origin="cdn", rate=1_500_000, times=0)
    job = pair.colony.post({"operation": "model_download", "model": REF, "hive": "far"})
    wait_for(
        lambda: any(
            info["bytes_done"] > SIZE // 5 and info["hive"] == "far"
            for info in pair.get("/v1/catalog/transfers").json()["transfers"]
        ),
        what="a fifth has come",
    )
    pair.far.kill()
    follow(
        pair.colony.url, job,
        until=lambda told: "waiting for hive far" in told.of("status")[-1]["message"],
    )  # fmt: skip
    pair.hub.heal()
    pair.hub.forget()
    pair.far.start()
    told = pair.colony.follow(job)
    assert told.end == "end", told.events[-2:]
    ranges = [r["range"] for r in pair.hub.log() if r["origin"] == "cdn" and r["sent"] > 1 << 20]
    assert ranges
    assert all(int(value[6:].partition("-")[0]) > 0 for value in ranges), ranges


def test_dashboards_are_told_of_transfers_and_models(pair: Pair) -> None:
    pair.hub.fault(FILE, "slow", origin="cdn", rate=4_000_000, times=0)
    decoder, seen = Decoder(), list[tuple[str, str]]()
    states: list[str] = []
    url = f"{pair.colony.url}/v1/events/stream"
    owner = pair.colony.home.owner
    with httpx.stream("GET", url, headers=owner, timeout=30, trust_env=False) as reply:
        job = ""
        for chunk in reply.iter_raw():
            seen += [(event.event, event.data) for event in decoder.feed(chunk)]
            if not job:
                job = pair.colony.post({"operation": "model_download", "model": REF, "hive": "far"})
            states = [data for kind, data in seen if kind == "download"]
            if states and '"done"' in states[-1]:
                break
    assert len(states) > 2
    assert '"hive":"far"' in states[0].replace(" ", "")
    assert pair.get("/v1/catalog/transfers").json() == {"transfers": []}


def test_deleting_frees_the_disk_but_not_while_it_is_loaded(pair: Pair) -> None:
    pair.result("model_download", model=REF, hive="home")
    worker = pair.colony.start_worker("home", ID)
    error = pair.fails("model_delete", model=ID)
    assert error["code"] == "CONFLICT"
    assert worker in error["message"]
    assert pair.result("model_unload", model=ID) == {"workers": [worker]}
    assert pair.result("model_delete", model=ID)["freed"] == len(DATA)
    wait_for(lambda: pair.hives() == [], what="nobody has it")
    assert pair.fails("model_delete", model=ID)["code"] == "MODEL_NOT_FOUND"


def test_the_catalogue_routes_answer_and_check_what_they_are_asked(pair: Pair) -> None:
    found = pair.get("/v1/catalog/search", q="tiny", limit=3).json()
    (repo,) = found["models"]
    assert repo["repo"] == "org/tiny"
    assert repo["choices"][0]["here"] == []
    pair.result("model_download", model=REF, hive="far")
    wait_for(lambda: pair.hives() == ["far"])
    (choice,) = pair.get("/v1/catalog/look", model=REF).json()["choices"]
    assert choice["here"] == ["far"]
    assert choice["need_bytes"] > len(DATA)
    assert {name.split()[0] for name in choice["fits"]} == {"far", "home"}
    for name in (ID, REF):
        one = pair.get(f"/v1/catalog/models/{name}").json()
        assert (one["model"]["id"], one["hives"]) == (ID, ["far"])
        assert one["entry"]["digest"].startswith("sha256:")
    assert pair.get("/v1/catalog/foreign", hive="far").json()["models"] is not None
    file = pair.far.home.path / "mine.gguf"
    file.write_bytes(llama().data())
    body = {"hive": "far", "path": str(file), "name": "mine"}
    entry = pair.colony.home.post("/v1/catalog/import", body).json()
    assert entry["id"] == "mine", entry
    gc = {"hive": "far", "dry_run": True}
    told = pair.colony.home.post("/v1/catalog/gc", gc)
    assert told.json()["freed"] == 0
    for path, params, status in (
        ("search", {"q": ""}, 400), ("search", {"q": "x", "limit": 51}, 400),
        ("search", {"q": "a\nb"}, 400), ("search", {"q": "x" * 600}, 400),
        ("look", {"model": "file:/etc/passwd"}, 404), ("look", {"model": "../x"}, 400),
        ("foreign", {"hive": "nowhere"}, 404), ("foreign", {}, 400),
        ("models/none-such", {}, 404), ("models/hf:org/other", {}, 404),
    ):  # fmt: skip
        reply = pair.get(f"/v1/catalog/{path}", **params)
        assert reply.status_code == status, (path, params, reply.text)
    for path, body in (
        ("import", {"hive": "far"}), ("import", {"hive": "far", "path": 5}),
        ("import", {"hive": "far", "path": "x", "more": 1}), ("gc", {"hive": "FAR"}),
    ):  # fmt: skip
        assert pair.colony.home.post(f"/v1/catalog/{path}", body).status_code == 400, body
