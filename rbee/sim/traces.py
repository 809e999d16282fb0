"""A trace: which models there are, who asks for what and when, and what breaks; read from a file.

Owns the trace file's two forms: TOML, which describes streams of requests by rates and lengths, and
JSONL, which lists them. Times in seconds from the beginning, lengths in tokens.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from rbee.protocol.hives import ModelInfo
from rbee.protocol.operations import Name, Priority
from rbee.sim.files import Paper, from_json, from_toml, line_of, read, wrong

GB = 10**9
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
Interval = Annotated[float, msgspec.Meta(ge=0.001, le=1e6)]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Length = int | list[int]
"""So many, or [least, most]: drawn between the two, evenly on a logarithmic scale."""
Client = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
MOST_REQUESTS = 1_000_000


class Arrival(StrEnum):
    """How a stream's conversations begin."""

    POISSON = "poisson"
    """At random, `every` seconds on average."""
    REGULAR = "regular"
    """Exactly every so many seconds."""


class ModelSpec(Paper, frozen=True, kw_only=True):
    """A model, by what decides its speed and its memory."""

    size: Annotated[float, msgspec.Meta(gt=0, le=10_000)]
    """GB of weights, in the file and in memory."""
    parameters: Annotated[float, msgspec.Meta(gt=0, le=100_000)]
    """10^9 that each token goes through."""
    kv: Annotated[float, msgspec.Meta(ge=0, le=100_000)] = 128.0
    """KiB of 16-bit keys and values for each token."""
    compute: Annotated[float, msgspec.Meta(ge=0, le=100_000)] = 300.0
    """MiB of working buffers."""
    context: Tokens = 131_072

    def info(self, name: str) -> ModelInfo:
        """As the brain knows it."""
        size = round(self.size * GB)
        return ModelInfo(
            id=name,
            ref=f"sim:{name}",
            path=f"/models/{name}.gguf",
            format="gguf",
            size=size,
            parameters=round(self.parameters * 1e9),
            context=self.context,
            weights_bytes=size,
            kv_bytes_per_token=round(self.kv * 1024),
            compute_bytes=round(self.compute * (1 << 20)),
            capabilities=["text-gen"],
        )


class StreamSpec(Paper, frozen=True, kw_only=True):
    """Requests that are drawn: clients who begin conversations of one or more turns."""

    client: Client
    """With several `clients`: what their names begin with."""
    model: str | list[str]
    """A list: each conversation takes the next of them."""
    prompt: Length
    """Of what is new in each turn."""
    answer: Length
    every: Interval
    """Seconds between the beginnings of a client's conversations."""
    arrival: Arrival = Arrival.POISSON
    clients: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    begin: Seconds = 0.0
    end: Seconds = 600.0
    at_once: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1
    """Conversations that begin together each time."""
    turns: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    think: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    """Seconds on average from an answer to the next turn."""
    system: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    """Tokens that all prompts of the stream begin with."""
    priority: Priority = Priority.INTERACTIVE
    deadline_ms: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_tokens: Tokens | None = None
    """What requests name as the most; not named, as most programs do, if left out."""


class RequestSpec(Paper, frozen=True, kw_only=True):
    """One request of a list."""

    at: Seconds
    client: Client
    model: str
    prompt: Tokens
    answer: Tokens
    conversation: str = ""
    """Requests of one conversation know each other's prompts and answers, in the order given."""
    priority: Priority = Priority.INTERACTIVE
    deadline_ms: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_tokens: Tokens | None = None


class FailureSpec(Paper, frozen=True, kw_only=True):
    """Something breaks: a worker is killed, or a hive goes and perhaps comes back."""

    at: Seconds
    worker: str | None = None
    """Its id, or `busiest`."""
    hive: Name | None = None
    back: Seconds | None = None
    """When the hive is there again."""


class TraceSpec(Paper, frozen=True, kw_only=True):
    """A trace file in TOML; the first line of one in JSONL has the same without the requests."""

    title: str
    models: Annotated[dict[str, ModelSpec], msgspec.Meta(min_length=1)]
    fleet: str = "home"
    """What it is run on when no fleet is named."""
    seed: int = 1
    ctx: Annotated[int, msgspec.Meta(ge=512, le=1_000_000)] = 8192
    """Tokens of context of each slot, `worker.ctx`."""
    preload: list[str] = []
    """Models of which every machine that has room is given a pinned worker at the beginning."""
    stream: list[StreamSpec] = []
    request: list[RequestSpec] = []
    failure: list[FailureSpec] = []


def load_trace(name: str) -> TraceSpec:
    """A shipped trace by its name or a file by its path. Raises NotFound, InvalidRequest."""
    text, file = read(name, "traces")
    if file.endswith(".jsonl") or text.lstrip().startswith("{"):
        trace, lines = _listed(text, file)
        _check(trace, file, None, lines)
        return trace
    trace = from_toml(text, file, TraceSpec)
    _check(trace, file, text, [])
    return trace


def _listed(text: str, file: str) -> tuple[TraceSpec, list[int]]:
    """A header, then a request in each line; and the line of each request."""
    header: TraceSpec | None = None
    requests: list[RequestSpec] = []
    lines: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        if header is None:
            header = from_json(line, file, number, TraceSpec)
            if header.request:
                raise wrong(file, number, "requests stand in lines of their own", "request")
            continue
        requests.append(from_json(line, file, number, RequestSpec))
        lines.append(number)
    if header is None:
        raise wrong(file, 1, "the first line has to say title and models")
    return msgspec.structs.replace(header, request=requests), lines


def _check(trace: TraceSpec, file: str, text: str | None, lines: list[int]) -> None:
    """What the types do not say. Raises InvalidRequest."""

    def fail(path: str, what: str) -> None:
        line = line_of(text, path) if text is not None else None
        if text is None and path.startswith("request["):
            line = lines[int(path[8:].partition("]")[0])]
        raise wrong(file, line, what, path)

    for n, stream in enumerate(trace.stream):
        here = f"stream[{n}]"
        names = [stream.model] if isinstance(stream.model, str) else stream.model
        if not names:
            fail(f"{here}.model", "name at least one")
        for name in names:
            if name not in trace.models:
                fail(f"{here}.model", _unknown(name, trace))
        for field in ("prompt", "answer"):
            length: Length = getattr(stream, field)
            if not isinstance(length, int) and len(length) != 2:
                fail(f"{here}.{field}", "give a number of tokens, or [least, most]")
            low, high = bounds(length)
            if low < 1:
                fail(f"{here}.{field}", f"{low} is less than 1")
            if low > high:
                fail(f"{here}.{field}", f"{low} is more than {high}")
        if stream.end < stream.begin:
            fail(f"{here}.end", f"{stream.end:g} is before begin, {stream.begin:g}")
        most = stream.system + stream.turns * (bounds(stream.prompt)[1] + bounds(stream.answer)[1])
        if most > trace.ctx:
            what = f"a conversation may have {most} tokens, ctx is {trace.ctx}"
            fail(f"{here}.prompt", what)
        share = (stream.end - stream.begin) / stream.every * stream.at_once * stream.turns
        if share * stream.clients > MOST_REQUESTS:
            fail(f"{here}.every", f"that makes more than {MOST_REQUESTS} requests")
    for name in trace.preload:
        if name not in trace.models:
            fail("preload", _unknown(name, trace))
    sizes: dict[str, int] = {}
    last = 0.0
    for n, request in enumerate(trace.request):
        if request.model not in trace.models:
            fail(f"request[{n}].model", _unknown(request.model, trace))
        before = sizes.get(request.conversation, 0) if request.conversation else 0
        total = before + request.prompt + request.answer
        sizes[request.conversation] = total
        if total > trace.ctx:
            fail(f"request[{n}].prompt", f"{total} tokens with its answer, ctx is {trace.ctx}")
        if request.at < last:
            fail(f"request[{n}].at", f"{request.at:g} is before the one above it")
        last = request.at
    for n, failure in enumerate(trace.failure):
        if (failure.worker is None) == (failure.hive is None):
            fail(f"failure[{n}].at", "name either a worker or a hive")
        if failure.back is not None and (failure.hive is None or failure.back <= failure.at):
            fail(f"failure[{n}].back", "only a hive comes back, and later than it went")
    if not trace.stream and not trace.request:
        raise wrong(file, None, "nobody asks for anything: it needs a [[stream]] or a [[request]]")


def bounds(length: Length) -> tuple[int, int]:
    """Least and most."""
    return (length, length) if isinstance(length, int) else (length[0], length[1])


def _unknown(name: str, trace: TraceSpec) -> str:
    return f"{name!r} is none of the trace's models: {', '.join(trace.models)}"
