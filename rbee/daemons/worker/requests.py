"""From the wire's request to the backend's: bounds are checked here, once.

The queen has validated what a user sent; this keeps any caller's mistake out of native code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from rbee.backend_api import Embedding, Generation, Request
from rbee.errors import ValidationFailed
from rbee.protocol.workers import Execute

_BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("temperature", 0.0, 5.0),
    ("top_p", 0.0, 1.0),
    ("top_k", 0, 100_000),
    ("min_p", 0.0, 1.0),
    ("repetition_penalty", 0.01, 10.0),
    ("presence_penalty", -2.0, 2.0),
    ("frequency_penalty", -2.0, 2.0),
    ("max_tokens", 1, 1 << 31),
    ("seed", 0, 0xFFFFFFFF),
    ("logprobs", 0, 20),
    ("emitted_tokens", 0, 1 << 31),
)
_MAX_STOPS = 16
_MAX_BIASES = 300
_MAX_BIAS = 100.0
_MAX_TOKEN = (1 << 31) - 1
_MAX_MESSAGES = 1000
_MAX_TOOLS = 128
_MAX_GRAMMAR = 64 << 10
"""Bytes of GBNF."""
_MAX_DEPTH = 64
"""Objects and lists within each other, in schemas, tools and messages."""
_MAX_INPUTS = 2048
_MAX_EMITTED = 4 << 20
"""Bytes of text, and a bound on the number of its tokens."""


def request_of(request: Execute) -> Request:
    """The request as the backend wants it. Raises ValidationFailed naming the field."""
    if not 1 <= len(request.request_id) <= 128:
        raise _bad("request_id", "1 to 128 characters")
    if request.input is not None:
        return _embedding(request, request.input)
    if (request.prompt is None) == (request.messages is None):
        raise _bad("prompt", "give either prompt or messages")
    for name, low, high in _BOUNDS:
        value = getattr(request, name)
        if value is not None and not low <= value <= high:  # NaN is outside too
            raise _bad(name, f"{low} to {high}")
    if len(request.stop) > _MAX_STOPS:
        raise _bad("stop", f"at most {_MAX_STOPS}")
    if not all(request.stop):
        raise _bad("stop", "none empty")
    _check_messages(request.messages)
    _check_tools(request)
    _check_shape(request)
    _check_emitted(request)
    return Generation(
        prompt=request.prompt,
        messages=tuple(request.messages or ()),
        tools=tuple(request.tools),
        must_call=tuple(request.must_call),
        several_calls=request.several_calls,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias=_biases(request.logit_bias),
        seed=request.seed,
        stop=tuple(request.stop),
        ignore_eos=request.ignore_eos,
        logprobs=request.logprobs,
        grammar=request.grammar,
        json_schema=request.json_schema,
        cache=request.cache,
        deterministic=request.deterministic,
        emitted=request.emitted,
        emitted_ids=tuple(request.emitted_ids),
        emitted_tokens=emitted_tokens(request),
    )


def emitted_tokens(request: Execute) -> int:
    """How many tokens of the answer the caller has; 0 too where it knows only the text."""
    return len(request.emitted_ids) or request.emitted_tokens


def check_can(
    request: Request, capabilities: Sequence[str], *, model: str, continues: bool = True
) -> None:
    """Raises ValidationFailed for a request of a kind that the model is not made for, and for the
    rest of an answer where the backend does not go on with one (`continues`)."""
    embeds = isinstance(request, Embedding)
    if isinstance(request, Generation) and request.continued and not continues:
        raise ValidationFailed(
            f"emitted: the backend of {model} cannot go on with an answer that another run began",
            action="Ask again from the beginning.",
            field="emitted",
            constraint="empty",
        )
    if ("embedding" if embeds else "text-gen") in capabilities:
        return
    what = "makes no vectors" if embeds else "makes vectors only, no text"
    able = ", ".join(capabilities) or "nothing"
    raise ValidationFailed(
        f"model: {model} {what} (it can: {able})",
        action="Name a model that is made for it.",
        field="model",
        constraint="embedding" if embeds else "text-gen",
    )


def _embedding(request: Execute, texts: Sequence[str]) -> Embedding:
    if request.prompt is not None or request.messages is not None:
        raise _bad("input", "give either input or a prompt or messages")
    if not 1 <= len(texts) <= _MAX_INPUTS:
        raise _bad("input", f"1 to {_MAX_INPUTS} texts")
    if not all(texts):
        raise _bad("input", "no empty text")
    if request.emitted or request.emitted_ids or request.emitted_tokens:
        raise _bad("emitted", "only with a prompt or messages")
    return Embedding(tuple(texts), normalize=request.normalize)


def _check_messages(messages: Sequence[Mapping[str, Any]] | None) -> None:
    if messages is None:
        return
    if not 1 <= len(messages) <= _MAX_MESSAGES:
        raise _bad("messages", f"1 to {_MAX_MESSAGES}")
    for message in messages:
        if not isinstance(message.get("role"), str):
            raise _bad("messages", "each has a role, a string")
        if not isinstance(message.get("content"), str | None):
            raise _bad("messages", "the content of each is a string or null")
        if _depth(message) > _MAX_DEPTH:
            raise _bad("messages", f"at most {_MAX_DEPTH} levels deep")


def _check_tools(request: Execute) -> None:
    if request.tools and request.messages is None:
        raise _bad("tools", "only with messages")
    if len(request.tools) > _MAX_TOOLS:
        raise _bad("tools", f"at most {_MAX_TOOLS}")
    known = [tool.get("function") for tool in request.tools]
    names = {one.get("name") for one in known if isinstance(one, Mapping)}
    if not names.issuperset(request.must_call):
        raise _bad("must_call", "names of tools")
    if request.must_call and request.grammar is not None:
        raise _bad("grammar", "not where a call is required")
    if _depth(request.tools) > _MAX_DEPTH:
        raise _bad("tools", f"at most {_MAX_DEPTH} levels deep")


def _check_shape(request: Execute) -> None:
    """The shape the answer must have: by rules, or by a schema."""
    if request.grammar is not None and request.json_schema is not None:
        raise _bad("grammar", "give either a grammar or a JSON schema")
    if request.grammar is not None:
        if not request.grammar.strip():
            raise _bad("grammar", "not empty")
        if len(request.grammar.encode()) > _MAX_GRAMMAR:
            raise _bad("grammar", f"at most {_MAX_GRAMMAR} bytes")
    if _depth(request.json_schema) > _MAX_DEPTH:
        raise _bad("json_schema", f"at most {_MAX_DEPTH} levels deep")


def _check_emitted(request: Execute) -> None:
    if len(request.emitted.encode("utf-8", "replace")) > _MAX_EMITTED:
        raise _bad("emitted", f"at most {_MAX_EMITTED} bytes")
    if len(request.emitted_ids) > _MAX_EMITTED:
        raise _bad("emitted_ids", f"at most {_MAX_EMITTED}")
    ids = request.emitted_ids
    if ids and not (min(ids) >= 0 and max(ids) <= _MAX_TOKEN):
        raise _bad("emitted_ids", f"token ids from 0 to {_MAX_TOKEN}")


def _biases(given: Mapping[str, float]) -> dict[int, float]:
    if len(given) > _MAX_BIASES:
        raise _bad("logit_bias", f"at most {_MAX_BIASES}")
    biases: dict[int, float] = {}
    for key, value in given.items():
        # At most ten ASCII digits: int() alone takes `²`-like digits, spaces and underscores too.
        if not (key.isascii() and key.isdigit() and len(key) <= 10 and int(key) <= _MAX_TOKEN):
            raise _bad("logit_bias", f"keys are token ids from 0 to {_MAX_TOKEN}")
        if not -_MAX_BIAS <= value <= _MAX_BIAS:
            raise _bad("logit_bias", f"{-_MAX_BIAS} to {_MAX_BIAS}")
        biases[int(key)] = value
    return biases


def _depth(value: object) -> int:
    """Levels of a JSON value; a plain one has none. Counts no further than is needed."""
    depth, level = 0, [value]
    while depth <= _MAX_DEPTH:
        below: list[object] = []
        for item in level:
            if isinstance(item, Mapping):
                below += cast("Mapping[str, object]", item).values()
            elif isinstance(item, list | tuple):
                below += cast("Sequence[object]", item)
        if not any(isinstance(item, Mapping | list | tuple) for item in level):
            return depth
        depth, level = depth + 1, below
    return depth


def _bad(field: str, constraint: str) -> ValidationFailed:
    return ValidationFailed(f"{field}: {constraint}", field=field, constraint=constraint)
