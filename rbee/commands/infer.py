"""`rbee infer`: one question to a model, streamed.

Tokens go to stdout as they are made, narration to stderr. Ctrl+C cancels the job and says so with
the exit code.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from rbee.client import QueenClient
from rbee.commands.following import Course, Manner, Take, content_of, follow, piped
from rbee.commands.following import run as run_job
from rbee.errors import InvalidRequest, RbeeError, ValidationFailed
from rbee.narration import Narrator
from rbee.output import print_json
from rbee.protocol.base import convert, decode, encode
from rbee.protocol.jobs import TokenData
from rbee.protocol.operations import Infer, check_infer
from rbee.protocol.workers import TokenLogprob
from rbee.sse import ServerEvent


@dataclass(frozen=True)
class Ask:
    """The command's arguments."""

    model: str
    prompt: str | None
    system: str | None
    json_schema: str | None
    """A JSON text, or the name of a file with one."""
    grammar: str | None
    """The name of a file."""
    options: dict[str, Any]
    """Fields of the operation, by their names."""
    manner: Manner


@dataclass
class Answer:
    """What has come so far."""

    text: list[str] = field(default_factory=list[str])
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])


def run(ask: Ask) -> int:
    """Ask, print, return the exit code."""
    if ask.options.get("logprobs") is not None and not ask.manner.as_json:
        raise InvalidRequest("--logprobs: only JSON has a place for them", action="Add --json.")
    operation = _operation(ask, _prompt(ask.prompt))
    encode(operation)  # refuses broken text before a queen is started for it

    async def work(queen: QueenClient, narrator: Narrator) -> None:
        def read(take: Take) -> Awaitable[Course]:
            return follow(operation, queen, narrator, take)

        await tell(read, narrator, as_json=ask.manner.as_json)

    return run_job(ask.manner, work)


async def tell(
    read: Callable[[Take], Awaitable[Course]], narrator: Narrator, *, as_json: bool
) -> None:
    """Print an answer as it is read. Raises the error that its job ended with."""
    answer = Answer()

    def take(event: ServerEvent) -> None:
        token = decode(event.data, TokenData)
        answer.text.append(token.t)
        if token.logprob is not None:
            answer.logprobs.append(token.logprob)
        if not as_json:
            _write(token.t)

    try:
        course = await read(take)
    except RbeeError:
        if answer.text and not as_json:
            _write("\n")
        raise
    if as_json:
        print_json(_object(answer, course))
    else:
        _write("" if answer.text and answer.text[-1].endswith("\n") else "\n")
    _tell_speed(course, narrator)


def _prompt(given: str | None) -> str:
    if given is None and (sys.stdin is None or sys.stdin.isatty()):
        raise InvalidRequest("no prompt", action='Give one: rbee infer --model NAME "…"')
    text = piped("prompt") if given is None or given == "-" else given
    if not text.strip():
        raise InvalidRequest("the prompt is empty", action="Give some text to answer.")
    return text


def _operation(ask: Ask, prompt: str) -> Infer:
    messages = [{"role": "system", "content": ask.system}] if ask.system else []
    messages.append({"role": "user", "content": prompt})
    fields: dict[str, Any] = {
        "operation": "infer", "model": ask.model, "messages": messages, **ask.options,
    }  # fmt: skip
    if ask.json_schema is not None:
        schema = _schema(ask.json_schema)
        fields["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
    if ask.grammar is not None:
        fields["grammar"] = content_of(ask.grammar, of="grammar in GBNF")
    operation = convert(fields, Infer)
    check_infer(operation)
    return operation


def _schema(given: str) -> dict[str, Any]:
    inline = given.lstrip().startswith(("{", "["))
    text = given if inline else content_of(given, of="JSON schema")
    try:
        return decode(text, dict[str, Any])
    except ValidationFailed as exc:
        where = "the text" if inline else repr(given[:200])
        raise InvalidRequest(
            f"--json-schema: {where} is no JSON object:"
            f" {exc.message.removeprefix('body is not valid JSON: ')}",
            action="Give a JSON schema, or the name of a file with one.",
        ) from exc


def _object(answer: Answer, course: Course) -> dict[str, Any]:
    assert course.end is not None
    started, metrics = course.started, course.metrics
    found = {
        "job_id": course.job_id,
        "text": "".join(answer.text),
        "finish_reason": course.end.finish_reason,
        "model": started.model if started else None,
        "quant": started.quant if started else None,
        "worker_id": started.worker_id if started else None,
        "hive": started.hive if started else None,
        "device": started.device if started else None,
        "queued_ms": started.queued_ms if started else None,
        "tokens_out": course.end.tokens_out,
        "prompt_tokens": metrics.prompt_tokens if metrics else None,
        "cached_tokens": metrics.cached_tokens if metrics else None,
        "ttft_ms": metrics.ttft_ms if metrics else None,
        "tokens_per_second": metrics.tokens_per_second if metrics else None,
        "duration_ms": course.end.duration_ms,
        "resumed": metrics.resumed if metrics else 0,
    }
    return found | ({"logprobs": answer.logprobs} if answer.logprobs else {})


def _tell_speed(course: Course, narrator: Narrator) -> None:
    if course.metrics is not None and course.end is not None:
        m = course.metrics
        narrator.say(
            f"↑{m.prompt_tokens} ↓{course.end.tokens_out} tokens · {m.tokens_per_second:.1f} tok/s"
            f" · first after {m.ttft_ms:.0f} ms"
        )


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
