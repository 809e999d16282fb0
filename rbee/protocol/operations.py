"""Operations: flat objects with the tag `operation`, those that this version carries out."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, TypeAlias

import msgspec

from rbee.errors import ValidationFailed
from rbee.protocol.base import Request, convert, decode

# Patterns end in \Z: `$` would let a newline pass at the end.
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")]
"""A hive name: a DNS label."""
ModelName = Annotated[
    str, msgspec.Meta(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+\Z")
]
DeviceName = Annotated[str, msgspec.Meta(pattern=r"^(cpu|(cuda|metal|vulkan)(:[0-9]{1,2})?)\Z")]
WorkerId = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}\Z")]
Text = Annotated[str, msgspec.Meta(max_length=1_000_000)]
Temperature = Annotated[float, msgspec.Meta(ge=0, le=5)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Stop = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Priority(StrEnum):
    """Which of the two queues a job waits in."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class ContentPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a multi-part message; only text parts are understood."""

    type: str
    text: Text = ""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One chat message."""

    role: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    content: str | list[ContentPart] | None = None
    name: str | None = None

    def text(self) -> str:
        """The content as one string. Raises ValidationFailed for a part that is not text."""
        if isinstance(self.content, list):
            for part in self.content:
                if part.type != "text":
                    raise ValidationFailed(
                        f"messages: parts of type {part.type[:40]!r} are not supported here",
                        field="messages",
                        constraint="text parts only",
                    )
            return "".join(part.text for part in self.content)
        return self.content or ""


class Infer(Request, frozen=True, kw_only=True, tag_field="operation", tag="infer"):
    """Generate text: `messages` (chat) or `prompt` (one user message)."""

    model: ModelName
    prompt: Text | None = None
    messages: Annotated[list[Message], msgspec.Meta(max_length=1000)] | None = None
    raw: bool = False
    """True: `prompt` is completed as it stands, without a chat template."""
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    temperature: Temperature = 0.7
    top_p: Fraction = 0.95
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 40
    min_p: Fraction = 0.05
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=2)] = 1.0
    seed: Annotated[int, msgspec.Meta(ge=0, le=4294967295)] | None = None
    stop: Annotated[list[Stop], msgspec.Meta(max_length=4)] = []
    priority: Priority = Priority.INTERACTIVE
    hive: Name | None = None
    worker_id: WorkerId | None = None
    device: DeviceName | None = None
    deadline_ms: Annotated[int, msgspec.Meta(ge=1)] | None = None
    wait: bool = True
    """False: ALL_SLOTS_BUSY at once instead of queueing behind other jobs."""


class WorkerSpawn(Request, frozen=True, kw_only=True, tag_field="operation", tag="worker_spawn"):
    """Start a worker and wait until it is ready."""

    model: ModelName
    hive: Name | None = None
    backend: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}\Z")] | None = None
    device: DeviceName | None = None
    slots: Annotated[int, msgspec.Meta(ge=1, le=256)] | None = None
    ctx: Annotated[int, msgspec.Meta(ge=64, le=10_000_000)] | None = None
    pin: bool = False


class WorkerStop(Request, frozen=True, kw_only=True, tag_field="operation", tag="worker_stop"):
    """Stop a worker; jobs it runs end with an error."""

    worker_id: WorkerId


class Status(Request, frozen=True, kw_only=True, tag_field="operation", tag="status"):
    """One colony snapshot as the job's result."""


class QueenCheck(Request, frozen=True, kw_only=True, tag_field="operation", tag="queen_check"):
    """Self-test of the streaming path, queen only."""


Operation: TypeAlias = Infer | WorkerSpawn | WorkerStop | Status | QueenCheck
OPERATIONS = ("infer", "worker_spawn", "worker_stop", "status", "queen_check")


def parse_operation(body: bytes) -> Operation:
    """Decode a POST /v1/jobs body. Raises ValidationFailed naming the unknown one."""
    raw: Any = decode(body, dict[str, Any])
    name = raw.get("operation")
    if name not in OPERATIONS:
        shown = repr(name[:40]) if isinstance(name, str) else "this"
        raise ValidationFailed(
            f"operation: {shown} is not one of {', '.join(OPERATIONS)}",
            field="operation",
            constraint="known operation",
        )
    op: Operation = convert(raw, Operation)  # pyright: ignore[reportArgumentType]
    if isinstance(op, Infer):
        check_infer(op)
    return op


def check_infer(op: Infer) -> None:
    """The constraints between fields. Raises ValidationFailed."""
    if (op.prompt is None) == (op.messages is None):
        raise ValidationFailed(
            "prompt: give either prompt or messages",
            field="prompt",
            constraint="prompt xor messages",
        )
    if op.messages is not None and not op.messages:
        raise ValidationFailed(
            "messages: must not be empty", field="messages", constraint="at least one"
        )
    for message in op.messages or ():
        message.text()
