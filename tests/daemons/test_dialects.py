"""What Ollama's and Anthropic's bodies and names mean, without a queen; the pages about them."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ollama._types as ollama_types
import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_params
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.daemons.queen import anthropic_params, ollama_params
from rbee.daemons.queen.anthropic_params import CountRequest, MessagesRequest, asked_of
from rbee.daemons.queen.ollama_names import meant, told
from rbee.daemons.queen.ollama_params import (
    ChatRequest,
    EmbedRequest,
    GenerateRequest,
    Options,
    body_of,
    chat_of,
    generate_of,
    unloads,
)
from rbee.errors import InvalidRequest, ModelNotFound, ValidationFailed
from rbee.models import refs
from rbee.protocol.base import encode
from rbee.protocol.messages import JsonBySchema, NamedTool
from rbee.settings import fields

DOCS = Path(__file__).parents[2] / "docs"
IDS = {"smollm2-135m", "org/repo:Q4_K_M", "org/repo@abc::sub/file.gguf"}

# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("smollm2-135m", "smollm2-135m"),
        ("smollm2-135m:latest", "smollm2-135m"),
        ("smollm2:135m", "smollm2-135m"),
        ("llama3.2:1b", "llama-3.2-1b"),
        ("Qwen2.5-Coder:7b", "qwen2.5-coder-7b"),
        ("gemma2:2b", "gemma-2-2b"),
        ("mine:v2", "mine:v2"),
        ("org/repo:Q4_K_M", "org/repo:Q4_K_M"),
        ("org/repo@abc::sub/file.gguf:latest", "org/repo@abc::sub/file.gguf"),
        ("hf.co/org/repo:Q8_0", "hf:org/repo:Q8_0"),
        ("huggingface.co/org/repo:latest", "hf:org/repo"),
        ("hf:org/repo:Q8_0", "hf:org/repo:Q8_0"),
        ("file:/models/a.gguf", "file:/models/a.gguf"),
        ("unknown", "unknown"),
    ],
)
def test_what_a_name_means(name: str, what: str) -> None:
    assert meant(name, IDS, {"mine:v2": "pkg:smollm2-135m"}) == what


@pytest.mark.parametrize("name", ["llama3.2:70b", "llama3.2", "nothing:1b", "a:b:c"])
def test_no_other_model_is_taken(name: str) -> None:
    try:
        found = meant(name, IDS, {})
    except ModelNotFound:
        return
    assert found == name
    assert found not in {*refs.ALIASES, *IDS}


def test_a_reference_that_is_wrong_says_so() -> None:
    with pytest.raises(InvalidRequest, match="absolute"):
        meant("file:a.gguf", IDS, {})


@pytest.mark.parametrize("name", sorted({*refs.ALIASES, *IDS}))
def test_what_is_listed_can_be_asked_for(name: str) -> None:
    assert ":" in told(name).rpartition("/")[2]
    assert meant(told(name), IDS, {}) == name


# -- Ollama's bodies ------------------------------------------------------------------------------


def test_options_are_ollamas_defaults_or_what_was_asked() -> None:
    plain = generate_of(body_of(b'{"model": "m", "prompt": "x"}', GenerateRequest), "m")
    assert (plain.temperature, plain.top_k, plain.top_p, plain.min_p) == (0.8, 40, 0.9, 0.0)
    assert (plain.repetition_penalty, plain.max_tokens, plain.seed) == (1.1, None, None)
    options = {
        "temperature": 0.1, "top_k": 3, "top_p": 0.5, "min_p": 0.2, "repeat_penalty": 1.3,
        "seed": 5, "stop": "x", "num_predict": 9, "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "num_ctx": 1, "unknown": 1,
    }  # fmt: skip
    body = encode({"model": "m", "prompt": "x", "options": options})
    asked = generate_of(body_of(body, GenerateRequest), "m")
    assert (asked.temperature, asked.top_k, asked.top_p, asked.min_p) == (0.1, 3, 0.5, 0.2)
    assert (asked.repetition_penalty, asked.seed, asked.stop) == (1.3, 5, ["x"])
    assert (asked.max_tokens, asked.presence_penalty, asked.frequency_penalty) == (9, 0.5, 0.25)
    wide = encode({"model": "m", "prompt": "x", "options": {"seed": -1, "num_predict": -2}})
    free = generate_of(body_of(wide, GenerateRequest), "m")
    assert (free.seed, free.max_tokens) == (None, None)


def test_messages_keep_what_a_template_needs() -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}, "index": 0}, "id": "call_1"}
    body = {
        "model": "m",
        "messages": [
            {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]},
            {"role": "tool", "tool_name": "f", "content": "1"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "extra": 1}}],
        "format": {"type": "object"},
        "think": False,
    }
    asked = chat_of(body_of(encode(body), ChatRequest), "m")
    assert asked.messages is not None
    called, result = asked.messages
    assert called.tool_calls is not None
    assert called.tool_calls[0].function.arguments == {"a": 1}
    assert (result.name, result.text()) == ("f", "1")
    assert isinstance(asked.response_format, JsonBySchema)


@pytest.mark.parametrize(
    ("keep_alive", "goes"),
    [(0, True), ("0", True), ("0s", True), (0.0, True), (-1, False), ("5m", False), (300, False),
     ("-1", False), ("1h30m", False), ("0.5s", False), (None, False)],
)  # fmt: skip
def test_only_nothing_unloads(keep_alive: float | str | None, goes: bool) -> None:
    assert unloads(keep_alive) is goes


@pytest.mark.parametrize("words", ["soon", "", "5", "m5", "1d"])
def test_what_is_no_duration_is_refused(words: str) -> None:
    if words == "5":
        assert not unloads(words)
        return
    with pytest.raises(ValidationFailed, match="keep_alive"):
        unloads(words)


# -- Anthropic's bodies ---------------------------------------------------------------------------


def test_turns_become_messages() -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": True,
              "content": [{"type": "text", "text": "no"}]}  # fmt: skip
    body = {
        "model": "m", "max_tokens": 5, "system": [{"type": "text", "text": "s"}],
        "messages": [
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": [{"type": "text", "text": "t"}, use]},
            {"role": "user", "content": [result, {"type": "text", "text": "v"}]},
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object"}, "cache_control": {}}],
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    }  # fmt: skip
    asked = anthropic_params.infer_from(asked_of(encode(body), MessagesRequest))
    told_ = [(m.role, m.text(), m.name, m.tool_call_id) for m in asked.messages or ()]
    assert told_ == [
        ("system", "s", None, None),
        ("user", "u", None, None),
        ("assistant", "t", None, None),
        ("tool", "Error: no", "f", "toolu_1"),
        ("user", "v", None, None),
    ]
    assert isinstance(asked.tool_choice, NamedTool)
    assert asked.parallel_tool_calls is False
    counted = anthropic_params.counted_from(
        asked_of(encode({k: v for k, v in body.items() if k != "max_tokens"}), CountRequest)
    )
    assert (counted.messages, counted.tools) == (asked.messages, asked.tools)


def test_counting_knows_no_limit() -> None:
    with pytest.raises(ValidationFailed, match="max_tokens"):
        asked_of(b'{"model": "m", "messages": [], "max_tokens": 5}', CountRequest)


# -- no body is a defect --------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "content", "role", "name", "id", "input", "function"]),
            inner, max_size=4,
        )
    ),
    max_leaves=12,
)  # fmt: skip


def _anthropic(body: bytes) -> None:
    anthropic_params.infer_from(asked_of(body, MessagesRequest))


def _chat(body: bytes) -> None:
    chat_of(body_of(body, ChatRequest), "m")


def _generate(body: bytes) -> None:
    generate_of(body_of(body, GenerateRequest), "m")


@pytest.mark.parametrize("read", [_anthropic, _chat, _generate])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_every_body_is_taken_or_refused(read: Callable[[bytes], None], data: st.DataObject) -> None:
    names = ["messages", "system", "tools", "tool_choice", "prompt", "format", "options", "stop",
             "context_management", "output_config", "keep_alive"]  # fmt: skip
    kinds = st.sampled_from(["text", "tool_use", "tool_result", "thinking", "image"])
    fields = dict.fromkeys(("text", "id", "name", "input", "content"), JSON)
    block = st.fixed_dictionaries({"type": kinds}, optional=fields)
    turn = st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool"])},
        optional={
            "content": JSON | st.lists(block, max_size=3),
            "tool_calls": JSON,
            "images": JSON,
        },
    )
    body = {"model": "m", "max_tokens": 5, "messages": data.draw(st.lists(turn, max_size=3))}
    body |= data.draw(st.dictionaries(st.sampled_from(names), JSON, max_size=3))
    with suppress(ValidationFailed):
        read(encode(body))


# -- the pages ------------------------------------------------------------------------------------


def rows(page: str, title: str) -> dict[str, set[str]]:
    """Parameters by what becomes of them, as the table under a title says."""
    text = (DOCS / page).read_text("utf-8").split(f"\n### {title}\n", 1)[1].split("\n#", 1)[0]
    found: dict[str, set[str]] = {"supported": set(), "ignored": set(), "refused": set()}
    for fate, names in re.findall(r"^\| (supported|ignored|refused) \| ([^|]*)\|", text, re.M):
        found[fate] |= set(re.findall(r"`([a-z0-9_]+)`", re.sub(r"\([^)]*\)", "", names)))
    return found


def fates(shape: Any, ignored: Any, refused: Any) -> dict[str, set[str]]:
    return {
        "supported": set(shape.__struct_encode_fields__),
        "ignored": set(ignored),
        "refused": set(refused),
    }


@pytest.mark.parametrize(
    ("title", "shape"),
    [("Generate", GenerateRequest), ("Chat", ChatRequest), ("Embed", EmbedRequest)],
)
def test_the_page_about_ollama_is_what_the_code_has(title: str, shape: Any) -> None:
    told = rows("ollama.md", title)
    assert told == fates(shape, told["ignored"], ollama_params.REFUSED.get(shape, {}))
    asked = {"model": "m"}
    ignored = dict.fromkeys(told["ignored"] | {"nobody knows it"}, 1)
    assert body_of(encode(asked | ignored), shape) == body_of(encode(asked), shape)


def test_the_page_about_ollamas_options_is_what_the_code_has() -> None:
    told = rows("ollama.md", "Options")
    assert told == fates(Options, told["ignored"], ollama_params.REFUSED_OPTIONS)
    body = encode({"options": dict.fromkeys(told["ignored"], 1)})
    assert body_of(body, ChatRequest).options == Options()


@pytest.mark.parametrize(
    ("title", "shape"), [("Messages", MessagesRequest), ("Count tokens", CountRequest)]
)
def test_the_page_about_anthropic_is_what_the_code_has(title: str, shape: Any) -> None:
    wanted = fates(shape, anthropic_params.IGNORED, anthropic_params.NEUTRAL)
    assert rows("anthropic.md", title) == wanted


@pytest.mark.parametrize(
    ("page", "title", "theirs"),
    [
        ("ollama.md", "Generate", ollama_types.GenerateRequest.model_fields),
        ("ollama.md", "Chat", ollama_types.ChatRequest.model_fields),
        ("ollama.md", "Options", ollama_types.Options.model_fields),
        ("ollama.md", "Embed", ollama_types.EmbedRequest.model_fields),
        ("anthropic.md", "Messages", message_create_params.MessageCreateParamsBase.__annotations__),
        ("anthropic.md", "Messages", beta_params.MessageCreateParamsBase.__annotations__),
        (
            "anthropic.md",
            "Count tokens",
            message_count_tokens_params.MessageCountTokensParams.__annotations__,
        ),
    ],
)
def test_no_parameter_of_the_official_clients_is_forgotten(
    page: str, title: str, theirs: dict[str, Any]
) -> None:
    known = set[str]().union(*rows(page, title).values())
    assert set(theirs) <= known


def test_what_the_page_about_clients_says_can_be_read() -> None:
    text = (DOCS / "clients.md").read_text("utf-8")
    known = {field.name for field in fields()}
    blocks = re.findall(r"```(json|toml)\n(.*?)```", text, re.DOTALL)
    assert {kind for kind, _ in blocks} == {"json", "toml"}
    for kind, block in blocks:
        if kind == "json":
            assert json.loads(block)
        else:
            told_ = tomllib.loads(block)
            assert {f"{section}.{name}" for section in told_ for name in told_[section]} <= known
