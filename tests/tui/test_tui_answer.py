"""An answer's state and its usage line, from the events of a job stream."""

from __future__ import annotations

import colony_data as data
import pytest

from rbee.errors import InsufficientRam
from rbee.protocol.base import Wire, encode
from rbee.protocol.jobs import CancelledData, ErrorData, QueuedData
from rbee.sse import ServerEvent
from rbee.tui.answer import Answer, Phase, usage_line
from rbee.tui.glyphs import ASCII, UNICODE


def event(step: tuple[str, Wire]) -> ServerEvent:
    return ServerEvent(encode(step[1]).decode(), step[0])


def asked() -> Answer:
    return Answer(prompt="why?", model="llama-3.2-3b", asked_at=100.0)


def test_the_line_tells_the_story() -> None:
    answer, lines = asked(), []
    steps = [*data.waiting(), data.started(), *data.tokens("abcdefgh", 4), *data.ended(2)]
    for at, step in enumerate(steps):
        answer.apply(event(step), 100 + at)
        lines.append(usage_line(answer, UNICODE, 100 + at)[2:])
    assert lines == [
        "llama-3.2-3b · … queued #2",
        "llama-3.2-3b · loading llama-3.2-3b 40%",
        "llama-3.2-3b · w-03@mule · reading the prompt",
        "llama-3.2-3b · w-03@mule · ↓1 · ttft 3.00 s",
        "llama-3.2-3b · w-03@mule · ↓2 · 1.0 tok/s · ttft 3.00 s",
        "llama-3.2-3b · w-03@mule · ↑12 ↓2 · 81.7 tok/s · ttft 0.14 s",
        "llama-3.2-3b · w-03@mule · ↑12 ↓2 · 81.7 tok/s · ttft 0.14 s",
    ]
    assert answer.body() == "abcdefgh"
    assert answer.phase is Phase.DONE
    assert answer.ended


def test_the_line_is_frozen_at_the_end() -> None:
    answer = asked()
    for step in [data.started(), *data.tokens("abcdefgh", 4)]:
        answer.apply(event(step), 101.0)
    answer.stop(102.0)
    assert usage_line(answer, UNICODE, 102.0) == usage_line(answer, UNICODE, 999.0)
    assert usage_line(answer, UNICODE, 102.0).startswith("⊘ ")
    assert usage_line(answer, UNICODE, 102.0).endswith("stopped")


def test_the_spinner_turns_with_the_clock() -> None:
    answer = asked()
    marks = {usage_line(answer, UNICODE, 100 + tenth / 10)[0] for tenth in range(10)}
    assert len(marks) > 5
    assert usage_line(answer, ASCII, 100.0)[0] in ASCII.spinner


def test_an_error_keeps_code_message_and_action() -> None:
    answer = asked()
    error = InsufficientRam("needs 8 GiB, 2 GiB free").body()["error"]
    answer.apply(event(("error", ErrorData(**error))), 101.0)
    assert answer.phase is Phase.FAILED
    assert isinstance(answer.error, InsufficientRam)
    assert answer.error.message == "needs 8 GiB, 2 GiB free"
    assert "smaller quantisation" in answer.error.action


def test_cancelled_is_not_an_error() -> None:
    answer = asked()
    answer.apply(event(("cancelled", CancelledData(reason="by the client"))), 101.0)
    assert answer.phase is Phase.STOPPED
    assert answer.error is None


@pytest.mark.parametrize(
    ("value", "top", "shown"), [(0, 100, "▁"), (100, 100, "█"), (500, 100, "█")]
)
def test_sparkline(value: float, top: float, shown: str) -> None:
    assert UNICODE.sparkline([value], 5, top) == shown


@pytest.mark.parametrize(
    ("fraction", "shown"),
    [(None, "────"), (0.0, "────"), (0.5, "━━──"), (1.0, "━━━━"), (7, "━━━━")],
)
def test_meter(fraction: float | None, shown: str) -> None:
    assert "".join(UNICODE.meter(fraction, 4)) == shown


def test_clip_marks_what_it_leaves_out() -> None:
    assert UNICODE.clip("qwen2.5-32b", 6) == "qwen2…"
    assert UNICODE.clip("qwen", 6) == "qwen"


def test_why_it_waits_is_told() -> None:
    answer = asked()
    queued = QueuedData(position=2, eta_ms=4200)
    answer.apply(event(("queued", queued)), 101.0)
    line = usage_line(answer, UNICODE, 101.0, waiting_for="waiting for 19.8G on mule:0")
    assert "… queued #2, waiting for 19.8G on mule:0 · first word in about 4 s" in line


def test_one_that_is_read_again_counts_once_it_has_ended_with_no_less_than_was_kept() -> None:
    kept = asked()
    kept.text, kept.phase = ["abcd"], Phase.INTERRUPTED
    again, late = Answer(kept.prompt, kept.model, asked_at=kept.asked_at, kept=kept), 86_500.0
    for step in [data.started(), *data.tokens("abcdefgh", 4)]:
        again.apply(event(step), late)
    assert usage_line(again, UNICODE, late + 1)[2:] == "llama-3.2-3b · w-03@mule · ↓2"
    assert again.counts is kept
    for step in data.ended(2):
        again.apply(event(step), late + 1)
    assert usage_line(again, UNICODE, late + 1).endswith("81.7 tok/s · ttft 0.14 s")
    assert again.counts is again

    less = Answer(kept.prompt, kept.model, asked_at=kept.asked_at, kept=kept)
    less.stop(late)
    assert less.counts is kept
