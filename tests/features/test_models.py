"""Scenarios: models that come from a hub, which here is a program that speaks the hub's HTTP."""

from __future__ import annotations

import hashlib
import json
import random
import re
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
from pytest_bdd import given, parsers, scenarios, then, when

from rbee.models import packages
from tests.features.story import Story
from tests.support.home import wait_for
from tests.support.hub_fixture import StandIn
from tests.support.tiny_gguf import llama

scenarios("models.feature")

Q4_0, Q8_0 = 2, 7
"""llama.cpp's numbers of file types."""

FILE = "tiny-Q4_0.gguf"
DATA = llama().data() + random.Random(5).randbytes(4_000_000)
LOOK = 1 << 20
"""Bytes of a header that are read before anything is fetched, at most."""


# ---- given ---------------------------------------------------------------------------------------


def _hub(story: Story, hub: StandIn) -> None:
    story.hub = hub
    story.home.env.update(hub.env)


@given("a hub with the model org/tiny")
def has_tiny(story: Story, hub: StandIn) -> None:
    hub.add("org/tiny", {FILE: DATA})
    _hub(story, hub)


@given("a hub with the model org/tiny for members")
def has_gated(story: Story, hub: StandIn) -> None:
    hub.add("org/tiny", {FILE: DATA}, gated="manual")
    _hub(story, hub)


@given(parsers.parse("a hub with the model org/tiny that sends {rate:d} bytes a second"))
def has_slow(story: Story, hub: StandIn, rate: int) -> None:
    has_tiny(story, hub)
    hub.fault(FILE, "slow", origin="cdn", rate=rate, times=0)


@given("a hub with the model org/huge in 70 B parameters and in a small choice")
def has_huge(story: Story, hub: StandIn) -> None:
    model = llama(layers=80)
    sides: dict[int, int] = {32: 8192, 64: 28672, 16: 1024}  # width, inside, keys of all heads
    for name, weights in model.tensors.items():
        shape = [sides.get(int(side), int(side)) for side in weights.shape]
        model.tensors[name] = np.broadcast_to(np.float32(0), shape)
    model.set({
        "llama.embedding_length": 8192, "llama.feed_forward_length": 28672,
        "llama.attention.head_count": 64, "llama.attention.head_count_kv": 8,
        "llama.rope.dimension_count": 128,
    })  # fmt: skip
    head = model.header()
    size = len(head) + sum(-(-weights.nbytes // 32) * 32 for weights in model.tensors.values())
    files: dict[str, bytes | Path | int] = {"huge-F16.gguf": size, "huge-Q4_0.gguf": DATA}
    folder = hub.add("org/huge", files, sha256={"huge-F16.gguf": "0" * 64})
    with (folder / "huge-F16.gguf").open("r+b") as file:
        file.write(head)
    _hub(story, hub)


def _demo() -> Path:
    demo = packages.packaged("smollm2-135m")
    assert demo is not None
    return demo.path


@given("the demo model under the name weights.bin and some text under the name fake.gguf")
def other_names(story: Story) -> None:
    (story.home.path / "weights.bin").symlink_to(_demo())
    (story.home.path / "fake.gguf").write_text("bees dance\n" * 1000, "utf-8")


@given("a hub with the demo model as Q4_0 and as Q8_0")
def has_quants(story: Story, hub: StandIn, tmp_path: Path) -> None:
    files: dict[str, bytes | Path | int] = {}
    for quant, number in (("Q4_0", Q4_0), ("Q8_0", Q8_0)):
        out = tmp_path / f"demo-{quant}.gguf"
        command = [sys.executable, "-m", "bench.models", _demo(), out, str(number)]
        subprocess.run(
            command, cwd=Path(__file__).parents[2], check=True, capture_output=True, timeout=100
        )
        files[out.name] = out
    hub.add("org/demo", files)
    _hub(story, hub)


@given("a hub with the model org/tensors as safetensors")
def has_tensors(story: Story, hub: StandIn) -> None:
    tensor = {"dtype": "F16", "shape": [16, 16], "data_offsets": [0, 512]}
    header = json.dumps({"model.embed_tokens.weight": tensor}).encode()
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "vocab_size": 16,
    }  # fmt: skip
    hub.add(
        "org/tensors",
        {
            "model.safetensors": struct.pack("<Q", len(header)) + header + bytes(512),
            "config.json": json.dumps(config).encode(),
            "tokenizer.json": b"{}",
        },
    )
    _hub(story, hub)


@given(parsers.parse("its connection is reset once at {percent:d} %"))
def reset_at(story: Story, percent: int) -> None:
    # The look at the header ends long before, and counts as one.
    story.hub.fault(FILE, "cut", origin="cdn", at=len(DATA) * percent // 100, times=2)


# ---- when ----------------------------------------------------------------------------------------


@when("the hub goes away")
def hub_goes(story: Story) -> None:
    story.hub.stop()


@when("the hub comes back")
def hub_comes(story: Story) -> None:
    story.hub.start(int(story.hub.url.rpartition(":")[2]))


@when(parsers.parse("I run rbee infer with the file {name}"))
def infer_file(story: Story, name: str) -> None:
    ref = f"file:{story.home.path / name}"
    story.result = story.home.rbee("infer", "--model", ref, "--max-tokens", "2", "Hello")


@when("a quarter of the model has come")
def quarter(story: Story) -> None:
    def there() -> bool:
        transfers = story.home.get("/v1/catalog/transfers")["transfers"]
        return any(info["bytes_done"] > len(DATA) // 4 for info in transfers)

    wait_for(there, what="a quarter has come")


# ---- then ----------------------------------------------------------------------------------------


@then("stderr shows how far the download is")
def shows_progress(story: Story) -> None:
    lines = [line for line in story.result.stderr.splitlines() if "downloading org/tiny" in line]
    assert any("MB" in line for line in lines), story.result.stderr
    percents = [int(found[1]) for line in lines if (found := re.search(r"(\d+)\s?%", line))]
    assert len(percents) > 1
    assert percents == sorted(percents)


def _row(story: Story) -> sqlite3.Row:
    with sqlite3.connect(story.home.path / "data" / "catalogue.db") as database:
        database.row_factory = sqlite3.Row
        (row,) = database.execute("SELECT * FROM models").fetchall()
    database.close()
    return row


@then("the catalogue has org/tiny:Q4_0 with its id, provider, ref, path, size and time")
def row_there(story: Story) -> None:
    row = _row(story)
    assert row["id"] == "org/tiny:Q4_0"
    entry = story.home.get("/v1/catalog/models/org/tiny:Q4_0")["entry"]
    assert entry["provider"] == "hf"
    assert entry["ref"].startswith("hf:org/tiny@")
    assert Path(entry["path"]).read_bytes() == DATA
    assert entry["size"] == len(DATA)
    assert entry["downloaded_at"] > 1_700_000_000


@then("the catalogue says its architecture, context and hash as its file does")
def row_read(story: Story) -> None:
    held = story.home.get("/v1/catalog/models/org/tiny:Q4_0")
    metadata = llama().metadata
    assert held["entry"]["architecture"] == metadata["general.architecture"].value
    assert held["entry"]["context"] == metadata["llama.context_length"].value
    assert held["entry"]["digest"] == f"sha256:{hashlib.sha256(DATA).hexdigest()}"
    assert held["model"]["weights_bytes"] > 0


def _ranges(story: Story) -> list[int]:
    """Where reading began, of what the hub was asked beyond looks at the header."""
    asked = [r for r in story.hub.log() if r["origin"] == "cdn" and r["method"] == "GET"]
    begun = [re.match(r"bytes=(\d+)-(\d*)", r["range"] or "bytes=0-") for r in asked]
    return [int(b[1]) for b in begun if b and not (b[2] and int(b[2]) - int(b[1]) < LOOK)]


@then(parsers.parse("the hub was asked for the rest from {percent:d} % on"))
def asked_rest(story: Story, percent: int) -> None:
    assert _ranges(story) == [0, len(DATA) * percent // 100], story.hub.log()


@then("the hub was asked for the rest only")
def asked_rest_only(story: Story) -> None:
    begun = _ranges(story)
    assert begun
    assert all(start > len(DATA) // 4 for start in begun), begun


@then("what came is what the hub has")
def came(story: Story) -> None:
    entry = story.home.get("/v1/catalog/models/org/tiny:Q4_0")["entry"]
    assert Path(entry["path"]).read_bytes() == DATA


@then("a quarter of the model is kept")
def kept(story: Story) -> None:
    folder = story.home.path / "data" / "models" / ".partial"
    assert max(file.stat().st_size for file in folder.rglob("*.gguf*")) > len(DATA) // 4


@then("no worker was started")
def no_worker(story: Story) -> None:
    assert story.home.workers() == []
    assert "starting w-" not in story.result.stderr


@then("nothing of it was fetched")
def nothing_fetched(story: Story) -> None:
    assert sum(r["sent"] for r in story.hub.log() if r["path"].endswith(".gguf")) < 2 * LOOK
    assert not list((story.home.path / "data").rglob("*.gguf*"))


@then("each runs on llamacpp and takes memory by the size of its file")
def by_size(story: Story) -> None:
    workers = {worker["quant"]: worker for worker in story.home.workers()}
    assert {worker["backend"] for worker in workers.values()} == {"llamacpp"}
    sizes = {
        held["model"]["quant"]: held["model"]["size"]
        for held in story.home.get("/v1/catalog/models")["models"]
        if held["model"]["id"].startswith("org/demo")
    }
    assert sizes.keys() == workers.keys() == {"Q4_0", "Q8_0"}
    more = workers["Q8_0"]["memory_bytes"] - workers["Q4_0"]["memory_bytes"]
    # Weights that are repacked for this CPU take a little more than the file has of them.
    assert 0.5 < more / (sizes["Q8_0"] - sizes["Q4_0"]) < 1.5


@then("stderr names a stage of loading")
def names_stage(story: Story) -> None:
    error = next(line for line in story.result.stderr.splitlines() if "LOADING_TIMEOUT" in line)
    told = story.home.get("/v1/jobs")["jobs"][0]
    assert told["error_code"] == "LOADING_TIMEOUT"
    assert re.search(r"start|load|stage|process", error), error


@then("no worker runs any more")
def none_left(story: Story) -> None:
    wait_for(lambda: not story.home.workers(), what="no worker")


@then("all of them exit with 0")
def all_exit(story: Story) -> None:
    for process in story.many:
        assert process.wait(60) == 0, story.home.err(process)


@then("the hub has sent the model once")
def sent_once(story: Story) -> None:
    sent = sum(r["sent"] for r in story.hub.log() if r["origin"] == "cdn")
    assert sent < len(DATA) + 4 * LOOK, json.dumps(story.hub.log())
