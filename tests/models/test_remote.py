"""Headers over HTTP Range: the same as from the disk, for a few megabytes."""

from __future__ import annotations

import hashlib
import json
import struct
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbee.errors import (
    BadGateway,
    ConnectionTimeout,
    Forbidden,
    ModelCorrupted,
    ModelIncompatible,
    ModelNotFound,
    RateLimited,
)
from rbee.models import packages, remote
from rbee.models.library import Library
from rbee.models.refs import parse
from rbee.protocol.models import DownloadOrder, PlannedFile
from tests.models.gguf_files import METADATA, TENSORS, build
from tests.support.hub import MEMBER

MIB = 1 << 20
GGUF = build(METADATA, TENSORS)


def fetched(hub) -> int:
    return sum(entry["sent"] for entry in hub.log() if entry["origin"] == "cdn")


@pytest.fixture
def demo():
    found = packages.packaged("smollm2-135m")
    assert found is not None
    return found.path


def look(hub, ask, files, token=None, **settings):
    hub.add("org/m", files, **settings)
    order = ask(token).order(parse("hf:org/m"), "x")
    hub.forget()
    return ask(token).look(order)


@pytest.mark.parametrize("token", [None, MEMBER])
def test_the_figures_are_those_of_the_file_itself(hub, ask, demo, token):
    info = look(hub, ask, {"demo.Q4_1.gguf": demo}, token, gated="auto" if token else False)
    here = Library().resolve(f"file:{demo}")
    same = ("size", "architecture", "quant", "parameters", "context", "weights_bytes", "format")
    same += ("kv_bytes_per_token", "compute_bytes", "capabilities")
    assert {name: getattr(info, name) for name in same} == {
        name: getattr(here, name) for name in same
    }
    assert (info.id, info.path) == ("org/m:Q4_1", "")
    assert info.digest == "sha256:" + hashlib.sha256(demo.read_bytes()).hexdigest()
    assert fetched(hub) <= 4 * MIB
    asked = [entry for entry in hub.log() if entry["origin"] == "hub"]
    assert len(asked) == (0 if token else 1)
    assert not any(entry["authorized"] for entry in hub.log())


@pytest.fixture(scope="session")
def large_vocabulary(tmp_path_factory):
    """128 k tokens and 280 k merges, as Llama 3 has them; the weights are a hole."""
    tokens = [f"Ġtoken{index}" for index in range(128_256)]
    metadata = METADATA | {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * len(tokens),
        "tokenizer.ggml.merges": [f"Ġtok{index} en{index}" for index in range(280_147)],
    }
    tensors = [("token_embd.weight", (64, 128_256), "F32"), *TENSORS[1:]]
    path = tmp_path_factory.mktemp("large") / "large.Q4_0.gguf"
    path.write_bytes(build(metadata, tensors))
    return path


def test_a_large_vocabulary_is_walked_over(hub, ask, large_vocabulary):
    hub.add("org/m", {"large.Q4_0.gguf": large_vocabulary})
    order = ask().order(parse("hf:org/m"), "x")
    hub.forget()
    ask().look(order)
    header_size = large_vocabulary.stat().st_size - 128_256 * 64 * 4
    assert fetched(hub) <= 2 * header_size + MIB
    assert fetched(hub) < large_vocabulary.stat().st_size // 2
    tracemalloc.start()
    info = ask().look(order)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (info.architecture, info.context) == ("llama", 512)
    assert peak < 64 * MIB


def test_the_rest_of_the_file_is_never_asked_for(hub, ask, demo):
    header = demo.read_bytes()[: 8 * MIB]
    path = hub.add("org/m", {"demo.Q4_1.gguf": header}, sha256={"demo.Q4_1.gguf": "a" * 64})
    with (path / "demo.Q4_1.gguf").open("r+b") as sparse:
        sparse.truncate(demo.stat().st_size)
    info = ask().look(ask().order(parse("hf:org/m"), "x"))
    assert info.parameters == 134515008
    assert info.digest == "sha256:" + "a" * 64
    assert fetched(hub) <= 4 * MIB


@pytest.mark.parametrize(
    ("kind", "more", "error"),
    [
        ("cut", {"at": 100}, BadGateway),
        ("status", {"status": 403}, Forbidden),
        ("status", {"status": 404}, ModelNotFound),
        ("status", {"status": 416}, BadGateway),
        ("status", {"status": 429, "headers": {"Retry-After": "9"}}, RateLimited),
        ("status", {"status": 500}, BadGateway),
        ("status", {"status": 200, "body": "<html>", "repeat": MIB // 2}, ModelCorrupted),
        ("status", {"status": 200, "body": "short"}, BadGateway),
        ("status", {"status": 206, "body": "x", "headers": {}}, BadGateway),
        (
            "status",
            {"status": 206, "body": "x", "headers": {"Content-Range": "bytes 5-5/6"}},
            BadGateway,
        ),
        ("status", {"status": 200, "body": "x", "headers": {"Content-Encoding": "br"}}, BadGateway),
        ("status", {"status": 302, "headers": {"Location": "http://127.0.0.1:1/x"}}, None),
        ("status", {"status": 302, "headers": {"Location": "ftp://x/y"}}, BadGateway),
        ("status", {"status": 302, "headers": {"Location": "http://xn--a-ecp.ru/x"}}, BadGateway),
        ("wrong_bytes", {"at": 0}, ModelCorrupted),
    ],
)
def test_what_goes_wrong_on_the_way_has_a_name(hub, ask, demo, kind, more, error):
    hub.fault("cdn/", kind, times=0, **more)
    with pytest.raises(error or ConnectionTimeout) as caught:
        look(hub, ask, {"demo.Q4_1.gguf": demo})
    assert "Signature" not in json.dumps(caught.value.body())
    if error is Forbidden:
        assert caught.value.details["expired"] is True


def test_an_address_that_has_expired_says_so(hub, ask):
    hub.add("org/m", {"m.gguf": GGUF}, gated="auto")
    order = ask(MEMBER).order(parse("hf:org/m"), "x")
    hub.fault("", "expire")
    with pytest.raises(Forbidden) as caught:
        ask().look(order)
    assert caught.value.details["expired"] is True
    assert ask(MEMBER).look(ask(MEMBER).order(parse("hf:org/m"), "x")).architecture == "llama"


@pytest.mark.parametrize("kind", ["mute", "stall"])
def test_silence_is_not_waited_for_for_ever(hub, ask, monkeypatch, kind):
    hub.add("org/m", {"m.gguf": GGUF})
    order = ask().order(parse("hf:org/m"), "x")
    monkeypatch.setattr(remote, "_SILENCE", 0.3)
    hub.fault("cdn/", kind, times=0)
    with pytest.raises(ConnectionTimeout):
        ask().look(order)


def test_a_trickle_has_an_end(hub, ask, monkeypatch):
    hub.add("org/m", {"m.gguf": GGUF})
    order = ask().order(parse("hf:org/m"), "x")
    monkeypatch.setattr(remote, "_PIECE_SECONDS", 0.2)
    hub.fault("cdn/", "slow", rate=100, times=0)
    with pytest.raises(ConnectionTimeout, match=r"sent \d+ of \d+ bytes in"):
        ask().look(order)
    assert fetched(hub) < len(GGUF) // 2


@pytest.mark.parametrize(
    ("key", "said", "most"),
    [
        (b"tokenizer.ggml.merges", "more than 8 MiB", 8 * MIB),
        (b"tokenizer.ggml.tokens", "there are at most", 2 * MIB),
    ],
)
def test_a_header_that_never_ends_is_given_up(hub, ask, monkeypatch, key, said, most):
    monkeypatch.setattr(remote, "BOUND", 8 * MIB)
    start = b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + struct.pack("<Q", len(key)) + key
    start += struct.pack("<IIQ", 9, 8, 1 << 27)
    path = hub.add("org/m", {"m.gguf": start}, sha256={"m.gguf": "a" * 64})
    with (path / "m.gguf").open("r+b") as sparse:
        sparse.truncate(2 << 30)
    order = ask().order(parse("hf:org/m"), "x")
    tracemalloc.start()
    with pytest.raises(ModelCorrupted, match=said):
        ask().look(order)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * MIB
    assert fetched(hub) <= most


def test_one_part_of_a_split_model_is_refused(hub, ask):
    part = build(METADATA | {"split.count": 3}, TENSORS)
    with pytest.raises(ModelIncompatible, match="3 parts"):
        look(hub, ask, {"m.gguf": part})


def shard(tensors: dict[str, tuple[str, list[int], int]]) -> bytes:
    told, at = dict[str, object](), 0
    for name, (dtype, shape, size) in tensors.items():
        told[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(told).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * at


CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512, "intermediate_size": 128,
}  # fmt: skip
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
SHARDS = {
    ONE: shard({"a": ("BF16", [64, 100], 12800), "b": ("F32", [64], 256)}),
    TWO: shard({"c": ("BF16", [64, 64], 8192)}),
}


def safetensors(**index: str) -> dict[str, bytes]:
    weights = {"a": ONE, "b": ONE, "c": TWO, **index}
    return {
        **SHARDS,
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors.index.json": json.dumps({"weight_map": weights}).encode(),
    }


@pytest.mark.parametrize("settings", [{}, {"gated": "manual"}, {"private": True}])
def test_safetensors_are_told_from_config_index_and_headers(hub, ask, settings):
    info = look(hub, ask, safetensors(), MEMBER, **settings)
    assert (info.id, info.path, info.format) == ("org/m", "", "safetensors")
    assert (info.architecture, info.context, info.quant) == ("llama", 512, "BF16")
    assert info.parameters == 64 * 100 + 64 + 64 * 64
    assert info.weights_bytes == 12800 + 256 + 8192
    assert info.kv_bytes_per_token == 2 * 2 * 16 * 2 * 2
    assert info.size == len(SHARDS[ONE]) + len(SHARDS[TWO])
    assert info.capabilities == ["text-gen"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config.json": b"[]"}, "config.json"),
        ({"config.json": b"{" * 9}, "config.json"),
        ({"model.safetensors.index.json": b"{}"}, "weight_map"),
        ({ONE: b"\xff" * 8 + b"{}"}, "header"),
        ({ONE: b"abc"}, "bytes"),
        ({TWO: SHARDS[TWO][:-1]}, "has only"),
        (safetensors(d="model-00003-of-00003.safetensors"), "does not have"),
        (safetensors(d=ONE), "no tensor 'd'"),
    ],
)
def test_damaged_safetensors_are_told(hub, ask, change, said):
    with pytest.raises(ModelCorrupted, match=said):
        look(hub, ask, safetensors() | change)


def test_safetensors_without_a_config_are_no_model(hub, ask):
    files = safetensors()
    del files["config.json"]
    with pytest.raises(ModelCorrupted, match=r"no config\.json"):
        look(hub, ask, files)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_is_a_model_or_an_error(hub, ask, data):
    damaged = bytearray(GGUF)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(GGUF) // 2))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    file = PlannedFile(name="m.gguf", size=len(cut), content=cut)
    order = DownloadOrder(
        ref="hf:a/b@c::m.gguf", model_id="x", asked="x", revision="c", format="gguf", files=[file]
    )
    try:
        assert ask().look(order).size == len(cut)
    except (ModelCorrupted, ModelIncompatible):
        return
