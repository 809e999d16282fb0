"""Models that no hive has: planned at the hub, fetched once, and the jobs that wait for them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rbee.models.packages import packaged
from tests.support.colony import Colony
from tests.support.home import Home, wait_for
from tests.support.hub_fixture import StandIn
from tests.support.tiny_gguf import llama
from tests.support.told import Told, follow

SIZE = 4_000_000
"""Bytes that follow the tensors of the small model, so that fetching it takes a while."""
FILE = "tiny-Q4_0.gguf"
REF = "hf:org/tiny"


def tiny(seed: int = 0) -> bytes:
    """A model that llama.cpp loads."""
    return llama().data() + random.Random(seed).randbytes(SIZE)


@pytest.fixture
def colony(tmp_path: Path, hub: StandIn) -> Iterator[Colony]:
    """A queen with her own hive, and a hub."""
    hub.add("org/tiny", {FILE: tiny()})
    home = Home(tmp_path / "home", **hub.env)
    made = Colony(home)
    yield made
    made.close()


def ask(model: str = REF, **fields: Any) -> dict[str, Any]:
    return {
        "operation": "infer", "model": model, "prompt": "we", "raw": True, "max_tokens": 4,
        "ignore_eos": True, **fields,
    }  # fmt: skip


def sent(hub: StandIn) -> int:
    """Bytes of the model's file that the hub has sent, but for looks at its header."""
    return sum(r["sent"] for r in hub.log() if r["method"] == "GET" and r["origin"] == "cdn")


def looks(hub: StandIn) -> int:
    """How often its file was begun to be read."""
    return sum(1 for r in hub.log() if r["method"] == "GET" and r["origin"] == "cdn")


def ended(colony: Colony, job_id: str) -> Told:
    """Its whole stream: nothing missing, one end."""
    told = colony.follow(job_id)
    assert told.events[-1].data == "[DONE]"
    assert [int(event.id or 0) for event in told.events[:-1]] == [*range(1, len(told.events))]
    assert told.end in told.kinds[-1]
    return told


def slow(hub: StandIn, rate: int = 400_000) -> None:
    hub.fault("/cdn/.*|tiny", "slow", origin="cdn", rate=rate, times=0)


def refused(colony: Colony, body: dict[str, Any], status: int) -> dict[str, Any]:
    """The error of a request that is refused at the door."""
    reply = colony.home.post("/v1/jobs", body)
    assert reply.status_code == status, reply.text
    return reply.json()["error"]


def on_its_way(colony: Colony) -> dict[str, Any]:
    """The only transfer."""
    (info,) = colony.home.get("/v1/catalog/transfers")["transfers"]
    return info


def downloading(colony: Colony, job_id: str) -> None:
    """Its model is on its way."""
    follow(
        colony.url, job_id,
        until=lambda told: any(0 < (s.get("progress") or 0) < 1 for s in told.of("status")),
    )  # fmt: skip


def test_a_job_has_its_model_fetched_and_answers(colony: Colony, hub: StandIn) -> None:
    told = ended(colony, colony.post(ask()))
    assert told.end == "end", told.events[-2:]
    assert told.kinds.count("token") > 0
    stages = [status["stage"] for status in told.of("status")]
    assert stages.index("downloading") < stages.index("downloaded")
    (held,) = [m for m in colony.home.get("/v1/catalog/models")["models"] if "tiny" in str(m)]
    assert held["hives"] == ["home"]
    assert held["workers"] == 1
    assert held["entry"]["provider"] == "hf"
    assert held["model"]["size"] == len(tiny())
    (spot,) = colony.home.get(f"/v1/catalog/fits?model={held['model']['id']}")["spots"]
    assert (spot["hive"], spot["device"], spot["fits"], spot["here"]) == ("home", "cpu", True, True)
    again = hub.log()
    assert ended(colony, colony.post(ask())).end == "end"
    assert len(hub.log()) == len(again), "the hub is asked only when no hive has it"
    assert colony.metric("rbee_download_bytes_total") <= len(tiny())
    assert colony.metric("rbee_downloads_running") == 0


def test_the_demo_model_comes_from_the_hub_too(colony: Colony, hub: StandIn) -> None:
    demo = packaged("smollm2-135m")
    assert demo is not None
    hub.add("org/demo", {"SmolLM2-135M-Instruct-Q4_1.gguf": demo.path})
    told = ended(colony, colony.post(ask("hf:org/demo:Q4_1")))
    assert told.end == "end", told.events[-2:]
    assert told.text.strip()


def test_two_jobs_share_one_transfer(colony: Colony, hub: StandIn) -> None:
    slow(hub)
    first = colony.post(ask())
    downloading(colony, first)
    second = colony.post(ask("hf:org/tiny:Q4_0"))
    (running,) = colony.home.get("/v1/catalog/transfers")["transfers"]
    assert running["state"] == "running"
    assert running["hive"] == "home"
    assert running["jobs"] == [first, second]
    assert colony.metric("rbee_downloads_running") == 1
    assert {job["job_id"] for job in colony.home.get("/v1/queue")["jobs"]} == {first, second}
    why = colony.home.rbee("why", second)
    assert (why.returncode, why.stderr) == (0, "")
    assert f"{second} waits for its model" in why.stdout
    assert "downloading org/tiny:Q4_0 to home: " in why.stdout
    assert "downloading org/tiny:Q4_0 to home: " in colony.job(second)["waiting_for"]
    hub.heal()
    assert [ended(colony, job).end for job in (first, second)] == ["end", "end"]
    assert len({r["range"] for r in hub.log() if r["sent"] > SIZE // 2}) == 1


def test_a_cancelled_job_leaves_the_transfer_to_the_other_and_the_last_one_ends_it(
    colony: Colony, hub: StandIn
) -> None:
    slow(hub)
    first = colony.post(ask())
    downloading(colony, first)
    second = colony.post(ask())
    for job_id, left in ((first, 1), (second, 0)):
        httpx.delete(f"{colony.url}/v1/jobs/{job_id}", timeout=10, trust_env=False)
        assert ended(colony, job_id).end == "cancelled"
        wait_for(
            lambda left=left: len(colony.home.get("/v1/catalog/transfers")["transfers"]) == left,
            what=f"{left} transfers",
        )
        wait_for(lambda left=left: left or not colony.home.get("/v1/queue")["jobs"])
    partial = list((colony.home.path / "data" / "models" / ".partial").rglob("*.gguf*"))
    assert partial, "what has come is kept"
    before = sent(hub)
    hub.heal()
    assert ended(colony, colony.post(ask())).end == "end"
    ranges = [r["range"] for r in hub.log() if r["origin"] == "cdn" and r["range"]]
    assert any(not value.startswith("bytes=0-") for value in ranges), ranges
    assert sent(hub) - before < len(tiny()) + SIZE // 2


def test_a_killed_queens_successor_goes_on_with_what_has_come(colony: Colony, hub: StandIn) -> None:
    slow(hub)
    waits = colony.post(ask())
    downloading(colony, waits)
    fetches = colony.post({"operation": "model_download", "model": REF})
    wait_for(lambda: on_its_way(colony)["bytes_done"] > SIZE // 5, what="a fifth has come")
    colony.kill_queen()
    colony.home.until_empty(20)
    had = sent(hub)
    hub.heal()
    hub.forget()
    colony.start_queen()
    told = ended(colony, waits)
    assert told.end == "end", told.events[-2:]
    assert "recovered" in [status["stage"] for status in told.of("status")]
    done = ended(colony, fetches)
    assert done.end == "end", done.events[-2:]
    assert done.of("result")[0]["hive"] == "home"
    assert had > 0
    begun = [r for r in hub.log() if r["origin"] == "cdn" and r["range"] and r["sent"] > 1 << 20]
    assert begun, hub.log()
    assert all(int(r["range"][6:].partition("-")[0]) > 0 for r in begun)


def test_an_openai_caller_is_told_how_far_it_is(colony: Colony, hub: StandIn) -> None:
    slow(hub, 2_000_000)
    body = {
        "model": REF, "messages": [{"role": "user", "content": "we"}], "max_tokens": 3,
        "stream": True,
    }  # fmt: skip
    refused = httpx.post(
        f"{colony.url}/v1/chat/completions", json=body, timeout=90, trust_env=False
    )
    assert refused.status_code == 401, "who is nobody has nothing fetched"
    reply = httpx.post(
        f"{colony.url}/v1/chat/completions", json=body, timeout=90, trust_env=False,
        headers=colony.home.owner,
    )  # fmt: skip
    assert reply.status_code == 200
    comments = [line for line in reply.text.splitlines() if line.startswith(": downloading")]
    percents = [int(line.split()[2]) for line in comments]
    assert len(percents) > 1
    assert percents == sorted(set(percents))
    assert reply.text.rstrip().endswith("data: [DONE]")
    assert '"error"' not in reply.text
    whole = httpx.post(
        f"{colony.url}/v1/chat/completions", json=body | {"stream": False}, timeout=90,
        trust_env=False,
    )  # fmt: skip
    assert whole.status_code == 200
    listed = httpx.get(f"{colony.url}/v1/models", timeout=10, trust_env=False).json()
    assert "org/tiny:Q4_0" in [model["id"] for model in listed["data"]]


def test_what_the_hub_refuses_is_refused_at_the_door(colony: Colony, hub: StandIn) -> None:
    hub.add("org/gated", {FILE: tiny()}, gated="manual")
    for kind in ("infer", "model_download"):
        body = (
            ask("hf:org/gated") if kind == "infer" else {"operation": kind, "model": "hf:org/gated"}
        )
        gated = refused(colony, body, 403)
        assert gated["code"] == "FORBIDDEN"
        assert "HF_TOKEN" in json.dumps(gated)
    missing = refused(colony, ask("hf:org/tinny"), 404)
    assert missing["code"] == "MODEL_NOT_FOUND"
    hub.fault("/api/models/org/busy", "status", status=429, headers={"Retry-After": "7"}, times=0)
    busy = refused(colony, ask("hf:org/busy"), 429)
    assert busy["code"] == "RATE_LIMITED"
    assert busy["details"]["retry_after"] == 7
    assert refused(colony, ask("file:/nowhere/x.gguf"), 404)["code"] == "MODEL_NOT_FOUND"
    assert refused(colony, ask(hive="nowhere"), 404)["code"] == "HIVE_NOT_FOUND"
    assert not sent_of(hub, "gated")


def sent_of(hub: StandIn, repo: str) -> int:
    return sum(r["sent"] for r in hub.log() if repo in r["path"] and r["path"].endswith(".gguf"))


def test_a_hub_that_is_not_there_is_told(colony: Colony, hub: StandIn) -> None:
    hub.stop()
    error = refused(colony, ask(), 504)
    assert error["code"] == "CONNECTION_TIMEOUT"
    assert hub.url.removeprefix("http://") in error["message"]


def test_a_model_that_fits_nowhere_is_refused_before_anything_is_fetched(
    colony: Colony, hub: StandIn
) -> None:
    files = {"huge-F16.gguf": 900 << 30, "huge-Q4_0.gguf": tiny()}
    hub.add("org/huge", files, sha256={"huge-F16.gguf": "0" * 64})
    with (hub.root / "org/huge/huge-F16.gguf").open("r+b") as file:
        file.write(llama().data())
    error = refused(colony, ask("hf:org/huge:F16"), 507)
    assert error["code"] in ("INSUFFICIENT_RAM", "INSUFFICIENT_DISK")
    assert error["details"]["required"] > error["details"]["available"]
    assert "Q4_0" in error["message"]
    assert error["details"]["would_fit"] == "hf:org/huge:Q4_0"
    assert sent_of(hub, "F16") < 100 << 20


def test_a_deleted_file_is_noticed_and_fetched_again(colony: Colony, hub: StandIn) -> None:
    assert ended(colony, colony.post({"operation": "model_download", "model": REF})).end == "end"
    held = [m for m in colony.home.get("/v1/catalog/models")["models"] if m["entry"]]
    (path,) = [Path(m["entry"]["path"]) for m in held if "tiny" in m["model"]["id"]]
    path.unlink()
    before = sent(hub)
    assert ended(colony, colony.post(ask())).end == "end"
    assert sent(hub) - before >= len(tiny())


def test_a_hub_that_goes_away_fails_the_job_and_what_came_is_kept(
    colony: Colony, hub: StandIn
) -> None:
    slow(hub)
    job = colony.post(ask())
    downloading(colony, job)
    wait_for(lambda: on_its_way(colony)["bytes_done"] > SIZE // 5, what="a fifth has come")
    hub.stop()
    told = ended(colony, job)
    (error,) = told.of("error")
    assert error["code"] == "DOWNLOAD_FAILED"
    assert error["details"]["attempts"] == 6
    assert colony.metric("rbee_downloads_failed_total") == 1
    hub.start(int(hub.url.rpartition(":")[2]))
    assert ended(colony, colony.post(ask())).end == "end"
    begun = [r for r in hub.log() if r["origin"] == "cdn" and r["sent"] > 1 << 20]
    assert any(int(r["range"][6:].partition("-")[0]) > SIZE // 5 for r in begun), begun


def test_addresses_that_expire_are_made_anew(tmp_path: Path, hub: StandIn) -> None:
    hub.add("org/gated", {FILE: tiny()}, gated="manual")
    home = Home(tmp_path / "home", **(hub.env | {"HF_TOKEN": "hf_member"}))
    colony = Colony(home)
    try:
        slow(hub)
        job = colony.post(ask("hf:org/gated"))
        downloading(colony, job)
        hub.heal()
        hub.fault("", "expire")
        hub.fault(FILE, "cut", at=SIZE // 3, origin="cdn")
        told = ended(colony, job)
        assert told.end == "end", told.events[-3:]
        for folder in ("data", "state"):
            for file in (home.path / folder).rglob("*"):
                if file.is_file() and file.suffix in (
                    ".db",
                    ".log",
                    ".journal",
                    ".json",
                    ".db-wal",
                ):
                    assert b"hf_member" not in file.read_bytes(), file
    finally:
        colony.close()


def test_what_fits_is_said_without_a_header_and_for_files_of_any_name(
    colony: Colony, hub: StandIn
) -> None:
    hub.add("org/pair", {"tiny-one.gguf": tiny(), "tiny-two.gguf": tiny(1)})
    hub.add("org/steps", {"s-Q4_0.gguf": tiny(), "s-Q8_0.gguf": tiny() + bytes(10**9)})
    found = {m["repo"]: m for m in colony.home.get("/v1/catalog/search?q=org")["models"]}
    for repo in ("org/tiny", "org/pair"):
        for choice in found[repo]["choices"]:
            assert choice["need_at_least"] is True
            assert choice["need_bytes"] > choice["size"]
            assert choice["fits"] == ["home cpu"]
    small, large = colony.home.get("/v1/catalog/look?model=hf:org/steps")["choices"]
    assert (small["need_at_least"], large["need_at_least"]) == (False, False)
    assert large["need_bytes"] - small["need_bytes"] >= 10**9
