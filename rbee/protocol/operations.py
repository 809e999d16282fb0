"""Operations: flat objects with the tag `operation`, those that this version carries out."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, TypeAlias

import msgspec

from rbee.errors import ValidationFailed
from rbee.protocol.base import Request, convert, decode
from rbee.protocol.machines import Forward, LabelName, Labels, RemotePath, Target
from rbee.protocol.messages import (
    Message,
    NamedTool,
    ResponseFormat,
    Text,
    Tool,
    ToolChoice,
    schema_of,
)

# Patterns end in \Z: `$` would let a newline pass at the end.
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")]
"""A hive name: a DNS label."""
ModelName = Annotated[
    str, msgspec.Meta(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+\Z")
]
DeviceName = Annotated[
    str, msgspec.Meta(pattern=r"^(cpu|(cuda|hip|metal|sycl|vulkan|xpu)(:[0-9]{1,2})?)\Z")
]
BackendName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}\Z")]
WorkerId = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}\Z")]
Temperature = Annotated[float, msgspec.Meta(ge=0, le=5)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Stop = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
STOPS, STOPS_ELSEWHERE = 4, 16
"""The most of a request, and of one in the words of an API whose programs send more."""
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
TokenId = Annotated[str, msgspec.Meta(pattern=r"^(0|[1-9][0-9]{0,9})\Z")]
"""A key of JSON is a string."""
Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]
GRAMMAR_BYTES = 64 << 10


class Priority(StrEnum):
    """Which of the two queues a job waits in."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class ModelWork(Request, frozen=True, kw_only=True):
    """What a model does in a slot of a worker; the base of such operations."""

    model: ModelName
    priority: Priority = Priority.INTERACTIVE
    hive: Name | None = None
    worker_id: WorkerId | None = None
    device: DeviceName | None = None
    backend: BackendName | None = None
    """Only by this one; None: the queen chooses."""
    deadline_ms: Annotated[int, msgspec.Meta(ge=1)] | None = None
    wait: bool = True
    """False: ALL_SLOTS_BUSY at once instead of queueing behind other jobs."""


class Infer(ModelWork, frozen=True, kw_only=True, tag_field="operation", tag="infer"):
    """Generate text: `messages` (chat) or `prompt` (one user message)."""

    prompt: Text | None = None
    messages: Annotated[list[Message], msgspec.Meta(max_length=1000)] | None = None
    raw: bool = False
    """True: `prompt` is completed as it stands, without a chat template."""
    tools: Annotated[list[Tool], msgspec.Meta(max_length=128)] = []
    """Told to the model by its template. The job's stream has what it answers as it says it; the
    routes for other programs take calls out of that."""
    tool_choice: ToolChoice = "auto"
    """`none`: the model is not told of them. `required`, or one by name: the answer is a call."""
    parallel_tool_calls: bool = True
    """False: an answer that must call does so once."""
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    temperature: Temperature = 0.7
    top_p: Fraction = 0.95
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 40
    min_p: Fraction = 0.05
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=2)] = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: Annotated[dict[TokenId, Bias], msgspec.Meta(max_length=300)] = {}
    seed: Annotated[int, msgspec.Meta(ge=0, le=4294967295)] | None = None
    stop: Annotated[list[Stop], msgspec.Meta(extra_json_schema={"maxItems": STOPS})] = []
    """How many is `check_infer`'s to say: the document tells of our own words only."""
    ignore_eos: bool = False
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    """So many of the likeliest tokens are told with each token; 0: its own probability only."""
    response_format: ResponseFormat | None = None
    """With tools that may be called, the answer has this shape or is a call."""
    grammar: Annotated[str, msgspec.Meta(min_length=1, max_length=GRAMMAR_BYTES)] | None = None
    """GBNF; the answer is a sentence of its rule `root`."""
    cache: bool = True
    """False: the prompt is computed anew although a part of it is known."""
    deterministic: bool = False
    """True: computed apart from everything else, so that nothing can change its numbers."""

    def offered(self) -> list[Tool]:
        """The tools that the model is told of."""
        return [] if self.tool_choice == "none" else self.tools

    def must_call(self) -> list[str]:
        """The functions of which the answer must call one; none: it need not."""
        if isinstance(self.tool_choice, NamedTool):
            return [self.tool_choice.function.name]
        if self.tool_choice == "required":
            return [tool.function.name for tool in self.tools]
        return []


class Embed(ModelWork, frozen=True, kw_only=True, tag_field="operation", tag="embed"):
    """Turn texts into vectors; the job's result is `{vectors, usage, model}`."""

    input: (
        Annotated[str, msgspec.Meta(min_length=1, max_length=1_000_000)]
        | Annotated[
            list[Annotated[str, msgspec.Meta(min_length=1, max_length=1_000_000)]],
            msgspec.Meta(min_length=1, max_length=2048),
        ]
    )
    normalize: bool = True
    """Vectors of length 1."""

    def texts(self) -> list[str]:
        """The input as a list, in order."""
        return [self.input] if isinstance(self.input, str) else list(self.input)


class WorkerSpawn(Request, frozen=True, kw_only=True, tag_field="operation", tag="worker_spawn"):
    """Start a worker and wait until it is ready."""

    model: ModelName
    hive: Name | None = None
    backend: BackendName | None = None
    device: DeviceName | None = None
    slots: Annotated[int, msgspec.Meta(ge=1, le=256)] | None = None
    ctx: Annotated[int, msgspec.Meta(ge=64, le=10_000_000)] | None = None
    pin: bool = False


class WorkerStop(Request, frozen=True, kw_only=True, tag_field="operation", tag="worker_stop"):
    """Stop a worker; what it runs goes on elsewhere."""

    worker_id: WorkerId


class WorkerDrain(Request, frozen=True, kw_only=True, tag_field="operation", tag="worker_drain"):
    """Give a worker nothing more; it stops when what it runs has ended."""

    worker_id: WorkerId


class ModelDownload(
    Request, frozen=True, kw_only=True, tag_field="operation", tag="model_download"
):
    """Fetch a model from the hub; the result is `{model, hive, bytes}`."""

    model: ModelName
    hive: Name | None = None
    """None: where it would run best."""


class ModelDelete(Request, frozen=True, kw_only=True, tag_field="operation", tag="model_delete"):
    """Take a model off a hive's disk; the result is `{model, hive, freed}`."""

    model: ModelName
    hive: Name | None = None
    """None: the only hive that has it."""


class ModelVerify(Request, frozen=True, kw_only=True, tag_field="operation", tag="model_verify"):
    """Read a model's files again and compare them with what they should be; see Verified."""

    model: ModelName
    hive: Name | None = None


class ModelCopy(Request, frozen=True, kw_only=True, tag_field="operation", tag="model_copy"):
    """Bring a model from one hive to another; the result is `{model, hive, to_hive, bytes}`."""

    model: ModelName
    hive: Name | None = None
    """Where from; None: any that has it."""
    to_hive: Name


class ModelPreload(Request, frozen=True, kw_only=True, tag_field="operation", tag="model_preload"):
    """Have a worker load the model, as the scheduler sees fit, and wait until it is ready."""

    model: ModelName
    hive: Name | None = None
    device: DeviceName | None = None
    backend: BackendName | None = None


class ModelUnload(Request, frozen=True, kw_only=True, tag_field="operation", tag="model_unload"):
    """End the model's workers, each when what it runs has ended; the result is `{workers}`."""

    model: ModelName
    hive: Name | None = None
    device: DeviceName | None = None


class HiveTask(Request, frozen=True, kw_only=True):
    """What the queen does with a machine, beside the queue; the base of such operations."""


class HiveAdd(HiveTask, frozen=True, kw_only=True, tag_field="operation", tag="hive_add"):
    """Reach a machine over SSH and remember it; the result is `{hive: HiveInfo}`.

    An unknown host key is HOST_KEY_UNKNOWN with its `fingerprint`: the same again with that as
    `accept`, once somebody has compared it. Nothing is saved when it fails.
    """

    name: Name
    target: Target
    accept: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    """The fingerprint that may be trusted, `SHA256:…`."""
    accept_new: bool = False
    """Whatever key it shows is trusted, if none is known yet."""
    path: RemotePath | None = None
    python: RemotePath | None = None
    models_dir: RemotePath | None = None
    labels: Labels = {}
    forward: Forward = "auto"


class HiveInstall(HiveTask, frozen=True, kw_only=True, tag_field="operation", tag="hive_install"):
    """Put this version of rbee on a machine and start its hive.

    The result is `{hive, version, extras, already}`.
    """

    hive: Name
    online: bool = False
    """The machine may fetch packages from its own package index."""
    extras: Annotated[list[LabelName], msgspec.Meta(max_length=16)] | None = None
    """None: those that suit it."""
    path: RemotePath | None = None
    python: RemotePath | None = None


class HiveUpgrade(HiveTask, frozen=True, kw_only=True, tag_field="operation", tag="hive_upgrade"):
    """The same beside what is there: drained, switched, and back again when it is not healthy."""

    hive: Name
    online: bool = False
    extras: Annotated[list[LabelName], msgspec.Meta(max_length=16)] | None = None


class HiveUninstall(
    HiveTask, frozen=True, kw_only=True, tag_field="operation", tag="hive_uninstall"
):
    """Stop the hive and take rbee off the machine; it stays added."""

    hive: Name
    models: bool = False
    """Its models, too."""


class HiveStart(HiveTask, frozen=True, kw_only=True, tag_field="operation", tag="hive_start"):
    """Have a machine's hive up, now and after a restart of the queen."""

    hive: Name
    detached_s: Annotated[float, msgspec.Meta(ge=1, le=31_536_000)] | None = None
    """Seconds that it stays without a queen, instead of its lease."""


class HiveStop(HiveTask, frozen=True, kw_only=True, tag_field="operation", tag="hive_stop"):
    """Stop a machine's hive and its workers; it stays down until it is started."""

    hive: Name


class HiveRestart(HiveTask, frozen=True, kw_only=True, tag_field="operation", tag="hive_restart"):
    """Stop and start it."""

    hive: Name


class HiveRefresh(HiveTask, frozen=True, kw_only=True, tag_field="operation", tag="hive_refresh"):
    """Connect at once where it is down, and look anew at what it is and has."""

    hive: Name


class HiveRemove(HiveTask, frozen=True, kw_only=True, tag_field="operation", tag="hive_remove"):
    """Stop a machine's hive and forget the machine."""

    hive: Name


class HiveWake(HiveTask, frozen=True, kw_only=True, tag_field="operation", tag="hive_wake"):
    """Wake a machine over the network and wait until it is reached."""

    hive: Name


class HiveCheck(HiveTask, frozen=True, kw_only=True, tag_field="operation", tag="hive_check"):
    """Self-test of the way to a hive and back; the result tells each step and its time."""

    hive: Name


class Status(Request, frozen=True, kw_only=True, tag_field="operation", tag="status"):
    """One colony snapshot as the job's result."""


class QueenCheck(Request, frozen=True, kw_only=True, tag_field="operation", tag="queen_check"):
    """Self-test of the streaming path, queen only."""


ModelTask: TypeAlias = ModelDownload | ModelDelete | ModelVerify | ModelCopy
"""Carried out by hives, beside the queue."""
Operation: TypeAlias = (
    Infer | Embed | WorkerSpawn | WorkerStop | WorkerDrain
    | ModelDownload | ModelDelete | ModelVerify | ModelCopy | ModelPreload | ModelUnload
    | HiveAdd | HiveInstall | HiveUpgrade | HiveUninstall | HiveStart | HiveStop | HiveRestart
    | HiveRefresh | HiveRemove | HiveWake | HiveCheck
    | Status | QueenCheck
)  # fmt: skip
OPERATIONS = (
    "infer", "embed", "worker_spawn", "worker_stop", "worker_drain",
    "model_download", "model_delete", "model_verify", "model_copy", "model_preload", "model_unload",
    "hive_add", "hive_install", "hive_upgrade", "hive_uninstall", "hive_start", "hive_stop",
    "hive_restart", "hive_refresh", "hive_remove", "hive_wake", "hive_check",
    "status", "queen_check",
)  # fmt: skip


_DECODER: msgspec.json.Decoder[Operation] = msgspec.json.Decoder(Operation)


def parse_operation(body: bytes, *, stops: int = STOPS) -> Operation:
    """Decode a POST /v1/jobs body, with so many stop strings at most. Raises ValidationFailed
    naming the unknown one."""
    try:
        op = _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        op = _explained(body)
    if isinstance(op, Infer):
        check_infer(op, stops=stops)
    return op


def _explained(body: bytes) -> Operation:
    """The same step by step, to say what is wrong."""
    raw: Any = decode(body, dict[str, Any])
    name = raw.get("operation")
    if name not in OPERATIONS:
        shown = repr(name[:40]) if isinstance(name, str) else "this"
        raise ValidationFailed(
            f"operation: {shown} is not one of {', '.join(OPERATIONS)}",
            field="operation",
            constraint="known operation",
        )
    return convert(raw, Operation)  # pyright: ignore[reportArgumentType,reportReturnType]


def check_infer(op: Infer, *, stops: int = STOPS) -> None:
    """The constraints between fields, and at most so many `stops`. Raises ValidationFailed."""
    if len(op.stop) > stops:
        raise _bad("stop", f"{len(op.stop)} texts", f"at most {stops} texts of 1 to 256 characters")
    if (op.prompt is None) == (op.messages is None):
        raise _bad("prompt", "give either prompt or messages", "prompt xor messages")
    if op.messages is not None and not op.messages:
        raise _bad("messages", "must not be empty", "at least one")
    for message in op.messages or ():
        message.text()
    if op.raw and op.tools:
        raise _bad("tools", "a raw prompt has no place for tools", "not with raw")
    names = {tool.function.name for tool in op.tools}
    if op.tool_choice == "required" and not names:
        raise _bad("tool_choice", "there are no tools to call", "only with tools")
    if isinstance(op.tool_choice, NamedTool) and op.tool_choice.function.name not in names:
        wanted = op.tool_choice.function.name
        raise _bad("tool_choice", f"{wanted!r} is none of the tools", "one of the tools")
    if len(names) < len(op.tools):
        raise _bad("tools", "two functions have the same name", "each name once")
    if op.grammar is not None and op.must_call():
        raise _bad("grammar", "a call has a shape of its own", "not where a call is required")
    if any(int(token) >= 1 << 31 for token in op.logit_bias):
        raise _bad("logit_bias", "no model has such a token", "ids below 2147483648")
    if op.grammar is not None and schema_of(op.response_format) is not None:
        raise _bad("grammar", "give either grammar or response_format", "one shape")
    if op.grammar is not None and len(op.grammar.encode()) > GRAMMAR_BYTES:
        raise _bad("grammar", f"has more than {GRAMMAR_BYTES} bytes", f"{GRAMMAR_BYTES} bytes")


def _bad(field: str, what: str, constraint: str) -> ValidationFailed:
    return ValidationFailed(f"{field}: {what}", field=field, constraint=constraint)
