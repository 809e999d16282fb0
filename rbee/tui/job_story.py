"""What happened to one job, as its stream tells it: steps with times, and the text it wrote.

Pure: events and times go in, lines come out; bounded, whatever a stream holds. Events carry no
time, so a step has one only where it was seen to happen or follows from the job's own figures.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

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
from rbee.tui.glyphs import wall_time
from rbee.tui.texts import paragraphs, wrapped
from rbee.tui.widgets.lines import Line

STEPS = 200
TEXT_CHARACTERS = 64 << 10
_ENDS = frozenset({EventType.END, EventType.ERROR, EventType.CANCELLED})


@dataclass
class Step:
    """`at`: UTC seconds, None: not known. `stage`: later steps of the same one take its place."""

    at: float | None
    word: str
    sentence: str
    role: str = "text"
    stage: str = ""


@dataclass
class JobStory:
    """Of one job; `job` may be replaced by a newer one at any time."""

    job: JobInfo
    steps: deque[Step] = field(default_factory=lambda: deque(maxlen=STEPS))
    tokens: int = 0
    now: str = ""
    """What its worker does while it says nothing."""
    eta_ms: int | None = None
    ended: bool = False
    version: int = 0
    """Counts changes."""
    _text: deque[str] = field(default_factory=deque[str])
    _characters: int = 0
    cut: bool = False
    """The beginning of its text is no longer here."""

    def text(self) -> str:
        """The end of what it wrote."""
        return "".join(self._text)

    def clear(self) -> None:
        """As if nothing had been heard."""
        self.steps.clear()
        self._text.clear()
        self.tokens = self._characters = 0
        self.cut = self.ended = False
        self.version += 1

    def apply(self, event: ServerEvent, at: float | None) -> None:
        """Take in one event of the stream. `at`: when it came; None: it is an old one."""
        self.version += 1
        if event.comment is not None:
            self._comment(event.comment)
            return
        if not event.data:
            return
        self.now = ""
        if event.event == EventType.TOKEN:
            self._token(decode(event.data, TokenData), at)
            return
        step = self._step(event, at)
        if step is not None:
            self._add(step)
        self.ended = self.ended or event.event in _ENDS

    def _add(self, step: Step) -> None:
        last = self.steps[-1] if self.steps else None
        if step.stage and last is not None and last.stage == step.stage:
            last.sentence = step.sentence
        else:
            self.steps.append(step)

    def _comment(self, comment: str) -> None:
        words = [word for word in comment.split() if word != "keepalive"]
        told = [word for word in words if not word.startswith(("position=", "eta_ms="))]
        for word in words:
            name, _, value = word.partition("=")
            if name == "eta_ms" and value.isdigit():
                self.eta_ms = int(value)
        self.now = " ".join(told)

    def _token(self, token: TokenData, at: float | None) -> None:
        if not self.tokens:
            ttft = self.job.ttft_ms
            after = f"after {span(ttft)}" if ttft is not None else ""
            self._add(Step(at, "first token", after, "ok"))
        self.tokens += 1
        self._text.append(token.t)
        self._characters += len(token.t)
        while self._characters > TEXT_CHARACTERS and len(self._text) > 1:
            self._characters -= len(self._text.popleft())
            self.cut = True

    def _step(self, event: ServerEvent, at: float | None) -> Step | None:
        job = self.job
        match event.event:
            case EventType.QUEUED:
                queued = decode(event.data, QueuedData)
                self.eta_ms = queued.eta_ms
                when = queued.eta_ms
                first = f", first token in about {span(when)}" if when is not None else ""
                place = f"at place {queued.position}{first}"
                return Step(at or job.created_at, "queued", place, "warn")
            case EventType.STATUS:
                status = decode(event.data, StatusData)
                told = status.progress is None or "%" in status.message
                done = "" if told else f" {status.progress:.0%}"
                role = "warn" if status.stage == "resuming" else "text"
                stage = status.stage if status.progress is not None else ""
                return Step(at, status.stage, f"{status.message}{done}", role, stage)
            case EventType.STARTED:
                return self._started(decode(event.data, StartedData), at)
            case EventType.RESULT:
                return Step(at, "result", f"{len(event.data)} bytes of JSON")
            case EventType.METRICS:
                return Step(at or job.finished_at, "figures", _metrics(event.data))
            case EventType.END:
                end = decode(event.data, EndData)
                made = f"{_tokens(end.tokens_out)} in " if end.tokens_out else ""
                words = f"{end.finish_reason}: {made}{span(end.duration_ms)}"
                return Step(at or job.finished_at, "done", words, "ok")
            case EventType.ERROR:
                error = decode(event.data, ErrorData)
                words = f"{error.code} {error.message}"
                return Step(at or job.finished_at, "failed", words, "bad")
            case EventType.CANCELLED:
                reason = decode(event.data, CancelledData).reason
                return Step(at or job.finished_at, "cancelled", reason, "muted")
            case _:
                return None

    def _started(self, started: StartedData, at: float | None) -> Step:
        where = f"{started.worker_id}@{started.hive} {started.device}"
        if at is None and started.attempt == 1:
            at = self.job.created_at + started.queued_ms / 1000
        if started.tokens_before:
            words = f"on {where}, after {_tokens(started.tokens_before)}, try {started.attempt}"
            return Step(at, "resumed", words, "warn")
        again = f", try {started.attempt}" if started.attempt > 1 else ""
        return Step(at, "started", f"on {where} after {span(started.queued_ms)}{again}", "ok")


def span(ms: float) -> str:
    """Milliseconds as `140 ms`, `3.2 s`, `4 min`."""
    if ms < 1000:
        return f"{ms:.0f} ms"
    return f"{ms / 1000:.1f} s" if ms < 120_000 else f"{ms / 60_000:.0f} min"


def headline(job: JobInfo) -> str:
    """`chat of llama-3.2-3b for cli, interactive`"""
    about = job.model or job.hive or ""
    what = f"{job.operation} of {about}" if about else job.operation
    whose = f" for {job.client}" if job.client else ""
    again = f", again after {job.retry_of}" if job.retry_of else ""
    return f"{what}{whose}, {job.priority}{again}"


def timeline_lines(story: JobStory, width: int) -> list[Line]:
    """First how it stands and why it waits, if it does; then each step."""
    job = story.job
    lines: list[Line] = []
    if job.finished_at is None:
        if story.tokens:
            speed = f", {job.tokens_per_second:.1f} tok/s" if job.tokens_per_second else ""
            lines += _rows(None, "now", f"{_tokens(story.tokens)}{speed}", "ok", width)
        elif story.now or job.waiting_for:
            lines += _rows(None, "now", waiting(story), "warn", width)
    if job.resumes:
        times = "once" if job.resumes == 1 else f"{job.resumes} times"
        lines += _rows(None, "resumed", f"{times}, where a worker was lost", "warn", width)
    if job.dead:
        words = f"given up after {job.attempts} tries; R asks again"
        lines += _rows(None, "dead letter", words, "bad", width)
    lines += _rows(job.created_at, "received", headline(job), "text", width)
    for step in story.steps or _known(job):
        lines += _rows(step.at, step.word, step.sentence, step.role, width)
    return lines


def waiting(story: JobStory) -> str:
    """One sentence: why it does not run yet, or what its worker does, and how long it may take."""
    words = story.now or story.job.waiting_for or "nothing is known of it yet"
    eta = story.job.eta_ms if story.job.eta_ms is not None else story.eta_ms
    if story.job.started_at is not None or eta is None:
        return words
    return f"{words}; first token in about {span(eta)}"


def text_lines(story: JobStory, width: int) -> list[Line]:
    """What it wrote so far, as plain text."""
    job = story.job
    if not story.tokens:
        words = "It has written nothing yet." if job.finished_at is None else "It wrote nothing."
        if job.operation == "embed":
            words = f"It makes vectors, no text: rbee job logs {job.job_id} --json prints them."
        return [((f" {row}", "muted"),) for row in wrapped(words, width - 2)]
    lines: list[Line] = [((f" {row}", "text"),) for row in paragraphs(story.text(), width - 2)]
    if story.cut:
        words = f"Its end; rbee job show {job.job_id} prints all of it."
        lines.insert(0, ((f" {words}", "muted"),))
    return lines


def _known(job: JobInfo) -> list[Step]:
    """Where there is no stream: what the job itself tells."""
    steps: list[Step] = []
    if job.started_at is not None:
        steps.append(Step(job.started_at, "started", f"on {job.worker_id or job.hive}", "ok"))
    if job.finished_at is not None:
        words = " ".join(filter(None, (job.error_code, job.error_message or job.finish_reason)))
        role = "bad" if job.error_code else "ok"
        steps.append(Step(job.finished_at, job.state.value, words, role))
    return steps


def _rows(at: float | None, word: str, sentence: str, role: str, width: int) -> list[Line]:
    time = wall_time(at) if at else " " * 8
    rows = wrapped(sentence, width - 24)
    told = "text" if role in ("ok", "muted") else role
    first: Line = (
        (f" {time} ", "muted"),
        (f"{word[:11]:<12}", role if role != "text" else "name"),
        (rows[0], told),
    )
    return [first, *(((" " * 22, "muted"), (row, told)) for row in rows[1:])]


def _metrics(data: str) -> str:
    at = decode(data, MetricsData)
    known = f", {at.cached_tokens} of them known" if at.cached_tokens else ""
    prompt = f"prompt {_tokens(at.prompt_tokens)}{known}"
    if not at.tokens_per_second:
        return prompt
    return f"{at.tokens_per_second:.1f} tok/s, first after {span(at.ttft_ms)}, {prompt}"


def _tokens(count: int) -> str:
    return f"{count} token{'' if count == 1 else 's'}"
