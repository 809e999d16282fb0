"""What is told of an operation on a machine while it goes on."""

from __future__ import annotations

from rbee.core.events import Event, PerformProgress
from rbee.daemons.queen.performing import _Teller


def told(said: list[tuple[str, str, float | None]]) -> list[str]:
    posted: list[Event] = []
    teller = _Teller("j-1", posted.append)
    for stage, message, part in said:
        teller(stage, message, part)
    return [event.message for event in posted if isinstance(event, PerformProgress)]


def test_every_step_is_told_however_fast_they_follow() -> None:
    steps = [("installing", f"step {n} of 9: title {n}", n / 9) for n in range(1, 9)]
    assert told(steps) == [message for _, message, _ in steps]


def test_the_figures_of_a_step_are_told_now_and_then() -> None:
    sent = [
        ("installing", f"step 2 of 9: send a wheel ({n} of 500 MiB)", (1 + n / 500) / 9)
        for n in range(500)
    ]
    shown = told(sent)
    assert shown[0] == sent[0][1]
    assert len(shown) < 100


def test_a_sentence_without_a_part_is_always_told() -> None:
    assert (
        told([("planning", "with llamacpp: (it runs)", None)] * 2)
        == ["with llamacpp: (it runs)"] * 2
    )
