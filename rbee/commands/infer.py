"""`rbee infer`: one question to a model, streamed.

Tokens go to stdout as they are made, narration to stderr. Ctrl+C cancels the job and says so with
the exit code; a broken stream is taken up again by event id while the queen comes back.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec

from rbee.client import QueenClient
from rbee.commands.common import client
from rbee.errors import (
    BadGateway,
    Cancelled,
    ConnectionTimeout,
    InvalidRequest,
    JobFinished,
    QueenUnreachable,
    RbeeError,
    ValidationFailed,
)
from rbee.narration import Narrator
from rbee.output import print_json
from rbee.protocol.base import convert, decode, encode
from rbee.protocol.jobs import (
    CancelledData,
    EndData,
    ErrorData,
    EventType,
    MetricsData,
    QueuedData,
    StartedData,
    StatusData,
    TokenData,
)
from rbee.protocol.operations import Infer
from rbee.sse import ServerEvent

CANCEL_LIMIT = 5.0
RECONNECT = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Seconds between tries to take up a broken stream."""


@dataclass(frozen=True)
class Ask:
    """The command's arguments."""

    model: str
    prompt: str | None
    system: str | None
    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stop: list[str]
    hive: str | None
    device: str | None
    wait: bool
    ephemeral: bool
    quiet: bool
    as_json: bool


@dataclass
class Answer:
    """What has come so far."""

    job_id: str
    text: list[str] = field(default_factory=list[str])
    last_id: int = 0
    started: StartedData | None = None
    metrics: MetricsData | None = None
    end: EndData | None = None


def run(ask: Ask) -> int:
    """Ask, print, return the exit code. Raises the error that the job ended with."""
    operation = _operation(ask, _prompt(ask.prompt))
    encode(operation)  # refuses broken text before a queen is started for it
    return anyio.run(_ask, ask, operation)


def _prompt(given: str | None) -> str:
    if given is None and (sys.stdin is None or sys.stdin.isatty()):
        raise InvalidRequest("no prompt", action='Give one: rbee infer --model NAME "…"')
    text = _piped() if given is None or given == "-" else given
    if not text.strip():
        raise InvalidRequest("the prompt is empty", action="Give some text to answer.")
    return text


def _piped() -> str:
    """All of stdin: UTF-8, whatever the locale."""
    if sys.stdin is None:
        return ""
    try:
        return sys.stdin.buffer.read().decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as exc:
        raise ValidationFailed(
            f"the prompt on stdin is not valid UTF-8 (byte {exc.start})",
            field="prompt",
            constraint="UTF-8",
            action="Give it as UTF-8 text.",
        ) from exc


def _operation(ask: Ask, prompt: str) -> Infer:
    messages = [{"role": "system", "content": ask.system}] if ask.system else []
    messages.append({"role": "user", "content": prompt})
    fields: dict[str, Any] = {
        "operation": "infer",
        "model": ask.model,
        "messages": messages,
        "max_tokens": ask.max_tokens,
        "temperature": ask.temperature,
        "top_p": ask.top_p,
        "top_k": ask.top_k,
        "seed": ask.seed,
        "stop": ask.stop,
        "hive": ask.hive,
        "device": ask.device,
        "wait": ask.wait,
    }
    return convert(fields, Infer)


async def _ask(ask: Ask, operation: Infer) -> int:
    narrator = Narrator(quiet=ask.quiet)
    caught: list[int] = []
    failure: RbeeError | BrokenPipeError | None = None
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for number in signals:
                    caught.append(number)
                    tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        try:
            async with client(narrator, ephemeral=ask.ephemeral) as queen:
                await _follow(ask, operation, queen, narrator)
        except (RbeeError, BrokenPipeError) as exc:  # must not be wrapped into the group's
            failure = exc
        finally:
            narrator.clear()
        tasks.cancel_scope.cancel()
    if isinstance(failure, BrokenPipeError):
        raise failure
    if failure is not None and not caught:
        return _failed(ask, failure)
    if caught:
        narrator.say("cancelled")
        return 128 + caught[0]
    return 0


def _failed(ask: Ask, failure: RbeeError) -> int:
    from rbee.output import print_error

    print_error(failure, as_json=ask.as_json)
    return failure.exit_code


async def _follow(ask: Ask, operation: Infer, queen: QueenClient, narrator: Narrator) -> None:
    accepted = await queen.submit(operation)
    answer = Answer(accepted.job_id)
    try:
        await _read(ask, answer, queen, narrator)
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True), anyio.move_on_after(CANCEL_LIMIT):
            await _cancel(queen, answer)
        raise
    except BrokenPipeError:
        with anyio.move_on_after(CANCEL_LIMIT):
            await _cancel(queen, answer)
        raise
    except RbeeError:
        if answer.text and not ask.as_json:
            _write("\n")
        raise
    if ask.as_json:
        print_json(_object(answer))
    else:
        _write("" if answer.text and answer.text[-1].endswith("\n") else "\n")
    _tell_speed(answer, narrator)


async def _cancel(queen: QueenClient, answer: Answer) -> None:
    """Cancel and wait until the slot is free, which the job's end says."""
    try:
        await queen.cancel(answer.job_id)
        async for _ in queen.job_stream(answer.job_id, after=answer.last_id):
            pass
    except (JobFinished, BadGateway, QueenUnreachable, ConnectionTimeout) as exc:
        sys.stderr.write(f"rbee: {exc.message}\n" if not isinstance(exc, JobFinished) else "")


async def _read(ask: Ask, answer: Answer, queen: QueenClient, narrator: Narrator) -> None:
    pauses = iter(RECONNECT)
    while answer.end is None:
        try:
            async for event in queen.job_stream(answer.job_id, after=answer.last_id):
                if event.data:
                    _take(ask, answer, event, narrator)
            if answer.end is None:
                raise BadGateway(f"the stream of {answer.job_id} ended without an end")
        except (BadGateway, QueenUnreachable, ConnectionTimeout):
            pause = next(pauses, None)
            if pause is None:
                raise
            narrator.say(f"the stream broke; taking it up again in {pause:g} s")
            await anyio.sleep(pause)


def _take(ask: Ask, answer: Answer, event: ServerEvent, narrator: Narrator) -> None:
    if event.id is not None and event.id.isdigit():
        answer.last_id = int(event.id)
    match event.event:
        case EventType.TOKEN:
            text = decode(event.data, TokenData).t
            answer.text.append(text)
            if not ask.as_json:
                _write(text)
        case EventType.QUEUED:
            position = decode(event.data, QueuedData).position
            if position > 1:
                narrator.say(f"queued, {position - 1} before you")
        case EventType.STATUS:
            status = decode(event.data, StatusData)
            if status.progress is not None:
                narrator.progress(status.message, status.progress)
            else:
                narrator.say(status.message)
        case EventType.STARTED:
            started = answer.started = decode(event.data, StartedData)
            narrator.say(f"{started.model} on {started.worker_id}@{started.hive} {started.device}")
        case EventType.METRICS:
            answer.metrics = decode(event.data, MetricsData)
        case EventType.END:
            answer.end = decode(event.data, EndData)
        case EventType.ERROR:
            error = decode(event.data, ErrorData)
            raise RbeeError.from_body({"error": msgspec.to_builtins(error)})
        case EventType.CANCELLED:
            reason = decode(event.data, CancelledData).reason
            raise Cancelled(f"the job was cancelled: {reason}")
        case _:
            pass


def _object(answer: Answer) -> dict[str, Any]:
    assert answer.end is not None
    started, metrics = answer.started, answer.metrics
    return {
        "job_id": answer.job_id,
        "text": "".join(answer.text),
        "finish_reason": answer.end.finish_reason,
        "model": started.model if started else None,
        "quant": started.quant if started else None,
        "worker_id": started.worker_id if started else None,
        "hive": started.hive if started else None,
        "device": started.device if started else None,
        "queued_ms": started.queued_ms if started else None,
        "tokens_out": answer.end.tokens_out,
        "prompt_tokens": metrics.prompt_tokens if metrics else None,
        "cached_tokens": metrics.cached_tokens if metrics else None,
        "ttft_ms": metrics.ttft_ms if metrics else None,
        "tokens_per_second": metrics.tokens_per_second if metrics else None,
        "duration_ms": answer.end.duration_ms,
    }


def _tell_speed(answer: Answer, narrator: Narrator) -> None:
    if answer.metrics is not None and answer.end is not None:
        m = answer.metrics
        narrator.say(
            f"↑{m.prompt_tokens} ↓{answer.end.tokens_out} tokens · {m.tokens_per_second:.1f} tok/s"
            f" · first after {m.ttft_ms:.0f} ms"
        )


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
