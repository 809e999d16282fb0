"""`rbee job logs`: a job's own story, one line for each thing that happened to it.

Reads only: whoever follows a job here and leaves has not cancelled it. Tokens are counted; their
text is printed when it is asked for.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import anyio
import msgspec

from rbee.client import QueenClient
from rbee.commands.common import ask, check_id
from rbee.commands.following import RECONNECT
from rbee.errors import BadGateway, ConnectionTimeout, QueenUnreachable
from rbee.narration import printable
from rbee.output import milliseconds, moment
from rbee.protocol.base import decode
from rbee.protocol.jobs import (
    CancelledData,
    EndData,
    ErrorData,
    EventType,
    JobInfo,
    MetricsData,
    QueuedData,
    StartedData,
    StatusData,
    TokenData,
)
from rbee.sse import ServerEvent


def run(job_id: str, *, follow: bool, text: bool, as_json: bool) -> int:
    """Print what has happened so far, with `follow` also what comes."""
    check_id(job_id, of="job")

    async def tell(queen: QueenClient) -> None:
        info = await queen.job(job_id)
        story = _Json(text=text) if as_json else _Lines(text=text)
        if not as_json:
            _write(_headline(info))
        async for event in _events(queen, job_id, follow=follow):
            if event.data:
                story.add(event)
        story.close()

    ask(tell)
    return 0


async def _events(queen: QueenClient, job_id: str, *, follow: bool) -> AsyncIterator[ServerEvent]:
    """A broken stream is taken up where it broke."""
    last, pauses = 0, iter(RECONNECT)
    while True:
        try:
            async for event in queen.job_stream(job_id, after=last, follow=follow):
                if event.id is not None and event.id.isdigit():
                    last = int(event.id)
                yield event
            return
        except (BadGateway, QueenUnreachable, ConnectionTimeout):
            pause = next(pauses, None)
            if pause is None:
                raise
            await anyio.sleep(pause)


@dataclass
class _Json:
    """One object per line."""

    text: bool

    def add(self, event: ServerEvent) -> None:
        if self.text or event.event != EventType.TOKEN:
            line = {
                "id": int(event.id or 0),
                "event": event.event,
                "data": msgspec.Raw(event.data.encode()),
            }
            sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
            sys.stdout.flush()

    def close(self) -> None:
        """Nothing is held back."""


@dataclass
class _Lines:
    """For people. Tokens are one line for all between two other events."""

    text: bool
    tokens: int = 0
    attempt: int = 0
    open: bool = False
    step: tuple[str, int] = ("", -1)
    """Stage and tenth of the progress that was told last."""

    def add(self, event: ServerEvent) -> None:
        if event.event == EventType.TOKEN:
            self.tokens += 1
            if self.text:
                token = decode(event.data, TokenData).t
                sys.stdout.write(token)
                sys.stdout.flush()
                self.open = not token.endswith("\n")
            return
        line = self._line(event)
        if line:
            self.close()
            _write(f"{event.id or '':>5}  {line}")

    def close(self) -> None:
        """Tell of the tokens since the last line."""
        if self.open:
            _write("")
            self.open = False
        elif self.tokens and not self.text:
            _write(f"{'':>5}  {_tokens(self.tokens)}")
        self.tokens = 0

    def _status(self, status: StatusData) -> str:
        """Of progress, a line for each tenth: a long download tells hundreds of steps."""
        if status.progress is not None:
            step = (status.stage, int(status.progress * 10))
            if step == self.step:
                return ""
            self.step = step
        told = status.message.startswith(status.stage)
        return status.message if told else f"{status.stage}: {status.message}"

    def _line(self, event: ServerEvent) -> str:
        match event.event:
            case EventType.QUEUED:
                queued = decode(event.data, QueuedData)
                eta = queued.eta_ms
                when = f", first token in about {milliseconds(eta)}" if eta is not None else ""
                return f"queued at place {queued.position}{when}"
            case EventType.STATUS:
                return self._status(decode(event.data, StatusData))
            case EventType.STARTED:
                return _started(decode(event.data, StartedData))
            case EventType.RESULT:
                return f"result, {len(event.data)} bytes of JSON"
            case EventType.METRICS:
                return _metrics(decode(event.data, MetricsData))
            case EventType.END:
                end = decode(event.data, EndData)
                took = milliseconds(end.duration_ms)
                made = f": {_tokens(end.tokens_out)}" if end.tokens_out else ""
                return f"completed ({end.finish_reason}){made} in {took}"
            case EventType.ERROR:
                error = decode(event.data, ErrorData)
                return f"failed: {error.code} {error.message}"
            case EventType.CANCELLED:
                return f"cancelled: {decode(event.data, CancelledData).reason}"
            case _:
                return ""


def _headline(job: JobInfo) -> str:
    about = job.model or job.hive
    what = f"{job.operation} of {about}" if about else job.operation
    whose = f" for {job.client}" if job.client else ""
    again = f", again after {job.retry_of}" if job.retry_of else ""
    at = moment(job.created_at)
    return f"{job.job_id}: {what}{whose}, {job.priority}{again}, asked at {at}, {job.state}"


def _started(at: StartedData) -> str:
    here = f"{at.worker_id}@{at.hive} {at.device}"
    waited = f"after {milliseconds(at.queued_ms)}"
    if at.tokens_before:
        return f"{here} goes on after {_tokens(at.tokens_before)} (try {at.attempt})"
    if at.attempt > 1:
        return f"started again on {here}, {waited} (try {at.attempt})"
    return f"started on {here}, {waited}"


def _metrics(at: MetricsData) -> str:
    known = f" ({at.cached_tokens} known)" if at.cached_tokens else ""
    if not at.tokens_per_second:
        return f"prompt {at.prompt_tokens}{known}"
    first = milliseconds(at.ttft_ms)
    return (
        f"{at.tokens_per_second:.1f} tok/s, first after {first}, prompt {at.prompt_tokens}{known}"
    )


def _tokens(count: int) -> str:
    return f"{count} token{'' if count == 1 else 's'}"


def _write(line: str) -> None:
    sys.stdout.write(printable(line) + "\n")
    sys.stdout.flush()
