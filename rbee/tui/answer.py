"""One question and its answer, as its job stream tells it.

Owns the state of a turn: what was asked, how far it has come, the figures of the usage line.
Pure: events and times go in, text comes out; no widget and no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from rbee.client import ServerEvent
from rbee.errors import RbeeError
from rbee.narration import printable
from rbee.protocol.base import builtins, decode
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
from rbee.tui.glyphs import Glyphs
from rbee.tui.thinking import Parts, apart, clean


class Phase(StrEnum):
    """sending → waiting → streaming → done | failed | stopped | interrupted."""

    SENDING = "sending"
    WAITING = "waiting"
    STREAMING = "streaming"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    """rbee ended while the answer came."""


ENDED = frozenset({Phase.DONE, Phase.FAILED, Phase.STOPPED, Phase.INTERRUPTED})


@dataclass
class Answer:
    """A turn of a chat. Times are seconds of the screen's clock."""

    prompt: str
    model: str
    asked_at: float
    phase: Phase = Phase.SENDING
    job_id: str | None = None
    text: list[str] = field(default_factory=list)
    tokens: int = 0
    worker_id: str | None = None
    hive: str | None = None
    device: str | None = None
    position: int | None = None
    stage: str = ""
    progress: float | None = None
    first_at: float | None = None
    ended_at: float | None = None
    metrics: MetricsData | None = None
    finish_reason: str | None = None
    error: RbeeError | None = None
    wanted_stop: bool = False
    pinned: str | None = None
    """The worker that was asked for."""
    seen: int = 0
    """Id of the last event that came."""
    resumes: int = 0
    """How often another worker went on where one was lost."""
    away_since: float | None = None
    """Since when the queen does not answer."""
    eta_ms: int | None = None
    kept: Answer | None = None
    """What there was of it before it was read again from its job."""

    @property
    def ended(self) -> bool:
        """True once nothing more will come."""
        return self.phase in ENDED

    @property
    def interrupted(self) -> bool:
        """It was still coming when it was kept: the job may know more of it."""
        return self.phase is Phase.INTERRUPTED

    @property
    def counts(self) -> Answer:
        """Itself; one that is read again only once it has ended with no less than was kept."""
        if self.kept is None or (self.ended and len(self.body()) >= len(self.kept.body())):
            return self
        return self.kept

    def body(self) -> str:
        """All that came so far, thoughts too."""
        return "".join(self.text)

    def parts(self) -> Parts:
        """What was thought and what was said, so far."""
        return apart(self.body(), ended=self.ended)

    def said(self) -> str:
        """The answer without its thoughts."""
        return self.parts().said

    def apply(self, event: ServerEvent, now: float) -> str:
        """Take in one event of the job stream; returns the text it added."""
        if self.ended:
            return ""
        self.away_since = None
        if event.id is not None and event.id.isdecimal():
            self.seen = int(event.id)
        match event.event:
            case EventType.QUEUED:
                queued = decode(event.data, QueuedData)
                self.position, self.eta_ms, self.phase = (
                    queued.position,
                    queued.eta_ms,
                    Phase.WAITING,
                )
            case EventType.STATUS:
                status = decode(event.data, StatusData)
                self.stage = printable(status.message or status.stage)
                self.progress = status.progress
                self.position = None
                if self.phase is Phase.SENDING:
                    self.phase = Phase.WAITING
            case EventType.STARTED:
                started = decode(event.data, StartedData)
                self.worker_id, self.hive = started.worker_id, started.hive
                self.device, self.position, self.stage = started.device, None, ""
                self.resumes += started.tokens_before > 0
                self.progress, self.phase = None, Phase.WAITING
            case EventType.TOKEN:
                return self._token(decode(event.data, TokenData), now)
            case EventType.METRICS:
                self.metrics = decode(event.data, MetricsData)
                self.resumes = max(self.resumes, self.metrics.resumed)
            case EventType.END:
                end = decode(event.data, EndData)
                self.finish_reason, self.tokens = end.finish_reason, end.tokens_out
                self._end(Phase.DONE, now)
            case EventType.ERROR:
                error = decode(event.data, ErrorData)
                self.fail(RbeeError.from_body({"error": builtins(error)}), now)
            case EventType.CANCELLED:
                self.finish_reason = decode(event.data, CancelledData).reason
                self._end(Phase.STOPPED, now)
            case _:
                pass
        return ""

    def fail(self, error: RbeeError, now: float) -> None:
        """The answer ends here; what was said of it stays."""
        if not self.ended:
            self.error = error
            self._end(Phase.FAILED, now)

    def stop(self, now: float) -> None:
        """The user stopped it."""
        self._end(Phase.STOPPED, now)

    def rate(self, now: float) -> float | None:
        """Tokens per second: the worker's own figure once known, else counted here; not of one
        that is read again, whose tokens come all at once."""
        if self.metrics is not None:
            return self.metrics.tokens_per_second
        if self.kept is not None or self.first_at is None or self.tokens < 2:
            return None
        seconds = (self.ended_at or now) - self.first_at
        return (self.tokens - 1) / seconds if seconds > 0 else None

    def ttft(self) -> float | None:
        """Seconds from asking to the first token, as the user felt it until the queen tells; not of
        one that is read again."""
        if self.metrics is not None:
            return self.metrics.ttft_ms / 1000
        if self.kept is not None or self.first_at is None:
            return None
        return self.first_at - self.asked_at

    def _token(self, token: TokenData, now: float) -> str:
        if self.first_at is None:
            self.first_at = now
        self.phase, self.stage, self.progress, self.position = Phase.STREAMING, "", None, None
        self.tokens = max(self.tokens, token.i + 1)
        added = clean(token.t)
        self.text.append(added)
        return added

    def _end(self, phase: Phase, now: float) -> None:
        if self.ended:
            return
        self.phase, self.ended_at, self.away_since = phase, now, None
        self.stage, self.progress, self.position = "", None, None


def usage_line(answer: Answer, glyphs: Glyphs, now: float, *, waiting_for: str = "") -> str:
    """`⠹ llama-3.2-3b · w-03@mule · ↑12 ↓96 · 81.7 tok/s · ttft 0.14 s`; frozen at its end.

    `waiting_for`: why the job is not running, as the queen says it.
    """
    dot = f" {glyphs.dot} "
    parts = [f"{_mark(answer, glyphs, now)} {answer.model}"]
    if answer.worker_id:
        parts.append(f"{answer.worker_id}@{answer.hive}")
    if answer.away_since is not None:
        seconds = max(0.0, now - answer.away_since)
        parts.append(f"the queen is away, waiting for her {seconds:.0f} s")
    elif not answer.ended:
        parts += _waiting(answer, glyphs, waiting_for)
    if answer.tokens:
        prompt = f"{glyphs.up}{answer.metrics.prompt_tokens} " if answer.metrics else ""
        parts.append(f"{prompt}{glyphs.down}{answer.tokens}")
    if (speed := answer.rate(now)) is not None:
        parts.append(f"{speed:.1f} tok/s")
    if (ttft := answer.ttft()) is not None:
        parts.append(f"ttft {ttft:.2f} s")
    if answer.resumes:
        times = "" if answer.resumes == 1 else f" {answer.resumes} times"
        parts.append(f"resumed{times} after a lost worker")
    if answer.phase in (Phase.STOPPED, Phase.INTERRUPTED):
        parts.append(answer.phase.value)
    elif answer.phase is Phase.DONE and answer.finish_reason == "length":
        parts.append("cut at the token limit")
    return dot.join(parts)


def _waiting(answer: Answer, glyphs: Glyphs, waiting_for: str) -> list[str]:
    out: list[str] = []
    if answer.position is not None:
        why = f", {printable(waiting_for)}" if waiting_for else ""
        out.append(f"{glyphs.queued} queued #{answer.position}{why}")
        if answer.eta_ms is not None:
            out.append(f"first word in about {max(1, round(answer.eta_ms / 1000))} s")
    if answer.stage:
        told = answer.progress is None or "%" in answer.stage
        percent = "" if told else f" {answer.progress:.0%}"
        out.append(f"{answer.stage}{percent}")
    elif answer.phase is Phase.SENDING:
        out.append("sending")
    elif answer.phase is Phase.WAITING and answer.worker_id:
        out.append("reading the prompt")
    return out


def _mark(answer: Answer, glyphs: Glyphs, now: float) -> str:
    match answer.phase:
        case Phase.DONE:
            return glyphs.done
        case Phase.FAILED:
            return glyphs.failed
        case Phase.STOPPED | Phase.INTERRUPTED:
            return glyphs.cancelled
        case _:
            return glyphs.spinner[int(now * 10) % len(glyphs.spinner)]
