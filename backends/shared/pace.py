"""How much of the waiting prompts goes into the next step.

Owns two rules. Running answers come first: while any runs, a step takes no more prompt than keeps
the gap between its tokens under a limit. And prompts share: the oldest gets half, the others equal
parts of the rest, so that a short question does not wait for a long document. Pure arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

CHUNK = 128
"""Tokens; answers that are computed apart take their prompts in whole chunks of this size."""
LEAST = 16
"""Tokens of prompt in a step whatever they cost: less than this is not cheaper."""
TILE = 64
"""Tokens that attention over a long context takes together: half the cost of fewer at a time
(ggml's CPU flash attention; measured at 2 500 tokens, 5.4 ms a token for 64 and 8.3 for 32)."""
_UNKNOWN_MS = 2.0
"""A token of prompt before any was measured; a small model on two old cores."""
_FORGET = 0.3
_ALONE_MS = 1000.0
"""A step of prompts only: as long as a cancel may take to be noticed."""


class Pace:
    """Learns what a step costs, from the steps."""

    def __init__(self, max_gap_ms: float) -> None:
        self._limit = max_gap_ms
        self._answers_ms: float | None = None
        self._prompt_ms: float | None = None

    def budget(self, *, answers: int, room: int) -> int:
        """How many tokens of prompt may go into a step with so many running answers."""
        cost = self._prompt_ms if self._prompt_ms is not None else _UNKNOWN_MS
        left = self._limit - (self._answers_ms or 0.0) if answers else _ALONE_MS
        return max(min(LEAST, room), min(room, int(left / max(cost, 1e-6))))

    def learn(self, *, answers: int, prompt: int, ms: float) -> None:
        """A step with so many answers and tokens of prompt took so long."""
        if not prompt:
            self._answers_ms = _mix(self._answers_ms, ms)
        else:
            rest = ms - (self._answers_ms or 0.0) if answers else ms
            if prompt >= LEAST:
                self._prompt_ms = _mix(self._prompt_ms, max(rest, 0.0) / prompt)


def shares(wanted: Sequence[int], budget: int) -> list[int]:
    """Divide a budget among prompts that want so many tokens, the oldest first.

    >>> shares([1000, 20, 500], 512)
    [256, 20, 236]
    """
    given = [0] * len(wanted)
    others = sorted(range(1, len(wanted)), key=lambda i: wanted[i])
    left = budget - (min(wanted[0], budget - budget // 2) if others else 0)
    for position, i in enumerate(others):
        given[i] = min(wanted[i], left // (len(others) - position))
        left -= given[i]
    for i in range(len(wanted)):  # what the others leave goes to the oldest
        more = min(wanted[i] - given[i], budget - sum(given))
        given[i] += more
    return given


def whole_tiles(part: int, *, left: int, answers: int) -> int:
    """A part of a prompt of which `left` tokens are to do, cut to what is computed well.

    In a step with running answers the library computes the first token of the part with theirs, and
    only then the rest by itself.
    """
    if part >= left or part <= TILE:
        return part
    return part - (part - (1 if answers else 0)) % TILE


def _mix(before: float | None, now: float) -> float:
    return now if before is None else before + _FORGET * (now - before)
