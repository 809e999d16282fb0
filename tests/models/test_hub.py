"""The hub as the queen asks it, with the real huggingface_hub against the stand-in."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rbee.errors import Forbidden, InvalidRequest, ModelNotFound
from rbee.models import packages
from rbee.models.hub import hub_cache_dir
from rbee.models.refs import parse
from tests.models.gguf_files import METADATA, TENSORS, build
from tests.support.hub import MEMBER, STRANGER

GGUF = build(METADATA, TENSORS)
SHA = hashlib.sha256(GGUF).hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def test_an_order_is_pinned_and_holds_what_a_hive_must_know(hub, ask):
    hub.add("org/tiny", {"m-q4_k_m.gguf": GGUF, "m-q8_0.gguf": GGUF + b"", "README.md": b"hi"})
    order = ask().order(parse("hf:org/tiny"), "tiny")
    file = order.files[0]
    assert (order.asked, order.model_id, order.format) == ("tiny", "org/tiny:Q4_K_M", "gguf")
    assert order.ref == f"hf:org/tiny@{order.revision}::m-q4_k_m.gguf"
    assert (file.name, file.size, file.sha256) == ("m-q4_k_m.gguf", len(GGUF), SHA)
    assert file.url == f"{hub.url}/org/tiny/resolve/{order.revision}/m-q4_k_m.gguf"
    assert ask().order(parse(order.ref), order.ref).files == order.files


def test_an_order_of_safetensors_has_every_file_with_a_hash(hub, ask):
    config = json.dumps({"model_type": "llama"}).encode()
    hub.add("org/st", {"model.safetensors": b"x" * 99, "config.json": config, "m.bin": b"pickle"})
    order = ask().order(parse("hf:org/st"), "hf:org/st")
    files = {file.name: file for file in order.files}
    assert set(files) == {"model.safetensors", "config.json"}
    assert files["model.safetensors"].sha256 == hashlib.sha256(b"x" * 99).hexdigest()
    assert files["config.json"].git_sha1 == git_sha1(config)
    assert (order.ref, order.model_id) == (f"hf:org/st@{order.revision}", "org/st")


def test_a_size_that_the_listing_leaves_out_is_asked_for(hub, ask):
    hub.add("org/tiny", {"m.gguf": GGUF}, missing_size=["m.gguf"])
    file = ask().order(parse("hf:org/tiny"), "x").files[0]
    assert (file.size, file.sha256) == (len(GGUF), SHA)


@pytest.mark.parametrize("told", [{}, {"blobId": "d" * 40}])
def test_a_hash_that_a_mirrors_listing_leaves_out_is_asked_for(hub, ask, told):
    hub.add("org/tiny", {"m.gguf": GGUF})
    commit = ask().order(parse("hf:org/tiny"), "x").revision
    files = [{"rfilename": "m.gguf", "size": len(GGUF), **told}]
    body = json.dumps({"id": "org/tiny", "sha": commit, "siblings": files})
    headers = {"Content-Type": "application/json"}
    hub.fault("/api/models/", "status", status=200, headers=headers, body=body, times=0)
    file = ask().order(parse("hf:org/tiny"), "x").files[0]
    assert (file.size, file.sha256, file.git_sha1) == (len(GGUF), SHA, None)


@pytest.mark.parametrize("settings", [{"gated": "manual"}, {"private": True}])
def test_an_order_for_a_member_holds_signed_addresses_and_no_token(hub, ask, settings):
    config = b'{"model_type": "llama"}'
    hub.add("org/mine", {"model.safetensors": b"x" * 99, "config.json": config}, **settings)
    order = ask(MEMBER).order(parse("hf:org/mine"), "x")
    files = {file.name: file for file in order.files}
    assert files["model.safetensors"].url.startswith(f"{hub.cdn}/cdn/")
    assert "Signature=" in files["model.safetensors"].url
    assert files["model.safetensors"].content is None
    assert (files["config.json"].url, files["config.json"].content) == ("", config)
    assert MEMBER not in repr(order)
    assert not any(entry["authorized"] for entry in hub.log() if entry["origin"] == "cdn")


def test_a_large_file_that_only_a_token_opens_is_refused(hub, ask, monkeypatch):
    monkeypatch.setattr("rbee.models.hub._INLINE", 10)
    hub.add("org/mine", {"model.safetensors": b"x", "config.json": b"{ }" * 9}, gated="auto")
    with pytest.raises(Exception, match="only to a token") as caught:
        ask(MEMBER).order(parse("hf:org/mine"), "x")
    assert caught.value.code == "BAD_GATEWAY"


@pytest.mark.parametrize(("token", "said"), [(None, "wants a token"), (STRANGER, "not accepted")])
def test_a_gated_repository_names_its_page_and_what_to_do(hub, ask, token, said):
    hub.add("org/gate", {"m.gguf": GGUF}, gated="manual")
    with pytest.raises(Forbidden, match=said) as caught:
        ask(token).order(parse("hf:org/gate"), "x")
    assert "org/gate" in caught.value.message
    assert f"{hub.url}/org/gate" in caught.value.action
    assert "HF_TOKEN" in caught.value.action
    assert "hf_" not in json.dumps(caught.value.body()).replace("hf_member", "")


def test_what_is_not_there_is_answered_with_names_like_it(hub, ask):
    hub.add("Qwen/Qwen2.5-0.5B-Instruct-GGUF", {"m.gguf": GGUF})
    hub.add("other/thing", {"m.gguf": GGUF})
    for token in (None, MEMBER):
        with pytest.raises(ModelNotFound) as caught:
            ask(token).order(parse("hf:Qwen/Qwen2.5-0.5B-Instruct-GUF"), "x")
        assert "Qwen/Qwen2.5-0.5B-Instruct-GGUF" in caught.value.action
        with pytest.raises(ModelNotFound, match="private") as caught:
            ask(token).order(parse("hf:nobody/nothing"), "x")
        assert "other/thing" not in caught.value.action
    with pytest.raises(ModelNotFound, match="revision"):
        ask().order(parse("hf:other/thing@v9"), "x")
    with pytest.raises(ModelNotFound, match=r"no file none\.gguf"):
        ask().order(parse("hf:other/thing@main::none.gguf"), "x")


def test_a_private_repository_is_there_for_its_owner_only(hub, ask):
    hub.add("me/secret", {"m.gguf": GGUF}, private=True)
    for token in (None, STRANGER):
        with pytest.raises(ModelNotFound, match="private"):
            ask(token).choices(parse("hf:me/secret"))
    assert [choice.size for choice in ask(MEMBER).choices(parse("hf:me/secret"))] == [len(GGUF)]


def test_choices_are_what_can_be_asked_for(hub, ask):
    parts = {f"m-Q8_0-{number:05}-of-00002.gguf": b"x" * 500_000 for number in (1, 2)}
    hub.add("org/all", {"m-Q4_0.gguf": GGUF, **parts, "model.safetensors": b"x"})
    told = {choice.ref: choice for choice in ask().choices(parse("hf:org/all"))}
    assert list(told) == ["hf:org/all:Q4_0", "hf:org/all:Q8_0", "hf:org/all:safetensors"]
    assert (told["hf:org/all:Q8_0"].files, told["hf:org/all:Q8_0"].size) == (2, 1_000_000)
    assert told["hf:org/all:Q4_0"].quant == "Q4_0"


def test_a_search_finds_what_talks_and_what_embeds(hub, ask):
    hub.add("a/tiny-chat-GGUF", {"m-Q4_0.gguf": GGUF, "m-Q8_0.gguf": GGUF}, downloads=5, likes=2)
    hub.add("b/tiny-embed", {"model.safetensors": b"x"}, task="sentence-similarity", downloads=9)
    hub.add("c/tiny-image", {"m.safetensors": b"x"}, task="text-to-image", downloads=99)
    hub.add("d/tiny-pickle", {"pytorch_model.bin": b"x"}, downloads=99)
    hub.add("e/tiny-gated", {"m.gguf": GGUF}, gated="manual", gguf={"total": 1234})
    hub.add("f/other", {"m.gguf": GGUF})
    found = ask().search("TINY")
    assert [model.repo for model in found] == ["b/tiny-embed", "a/tiny-chat-GGUF", "e/tiny-gated"]
    chat = found[1]
    assert (chat.downloads, chat.likes, chat.format, chat.gated) == (5, 2, "gguf", False)
    assert [(c.quant, c.size) for c in chat.choices] == [("Q4_0", len(GGUF)), ("Q8_0", len(GGUF))]
    assert chat.updated_at == 1717243200.0
    assert (found[2].gated, found[2].parameters) == (True, 1234)
    assert [model.repo for model in ask().search("tiny", 1)] == ["b/tiny-embed"]
    assert ask().search("no such thing") == []
    assert ask().repo("a/tiny-chat-GGUF") == chat


@pytest.mark.parametrize("text", ["", "  ", "x" * 201, "a\nb", "\x1b[2J"])
def test_a_search_is_for_some_words(ask, text):
    with pytest.raises(InvalidRequest):
        ask().search(text)


@pytest.mark.parametrize("limit", [0, -1, 51])
def test_a_search_has_some_results(ask, limit):
    with pytest.raises(InvalidRequest):
        ask().search("x", limit)


@pytest.mark.parametrize("name", ["", "x", "a/b/c", "../x", "a/..", "a/b?c", "api/models/x"])
def test_a_repository_has_a_name(ask, name):
    with pytest.raises(InvalidRequest):
        ask().repo(name)


def test_all_comes_from_the_environment_as_huggingface_hub_has_it(hub, tmp_path):
    demo = packages.packaged("smollm2-135m")
    assert demo is not None
    hub.add("org/mine", {"demo.Q4_1.gguf": demo.path}, gated="auto")
    program = textwrap.dedent("""
        import json
        from rbee.models.hub import Hub, hub_cache_dir
        from rbee.models.refs import parse
        from rbee.errors import RbeeError
        try:
            hub = Hub()
            info = hub.look(hub.order(parse("hf:org/mine:Q4_1"), "x"))
            print(json.dumps([info.parameters, str(hub.cache), str(hub_cache_dir())]))
        except RbeeError as exc:
            print(json.dumps([exc.code, exc.message]))
    """)

    def run(**more: str) -> list[object]:
        keep = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            env={**keep, **hub.env, **more},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert "Signature" not in done.stderr
        return json.loads(done.stdout)

    cache = str(Path(hub.env["HF_HOME"]) / "hub")
    assert run(HF_TOKEN=MEMBER) == [134515008, cache, cache]
    assert run()[0] == "FORBIDDEN"
    token = Path(hub.env["HF_HOME"]) / "token"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.write_text(MEMBER + "\n")
    assert run()[0] == 134515008
    hub.forget()
    code, message = run(HF_HUB_OFFLINE="1")
    assert (code, "HF_HUB_OFFLINE" in str(message)) == ("UNAVAILABLE", True)
    assert hub.log() == []


def test_the_cache_is_where_the_library_has_it():
    from huggingface_hub import constants

    assert str(hub_cache_dir()) == constants.HF_HUB_CACHE
