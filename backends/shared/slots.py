"""The slots: which sequence each one is, what its KV cache holds, and who uses it.

Owns the choice of a slot for a request. Sequences that compute in one step must have neighbouring
numbers, or the step costs more (llama.cpp splits it); so requests are placed beside the active
ones, and the one farthest out moves into a hole that opens. Never calls the library.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from .prefix import common
from .task import Task

_WORTH_MOVING = 16
"""Tokens an answer must have left before moving it pays: it costs about one step."""


class Phase(Enum):
    """free → prefill → decode → free."""

    FREE = 0
    PREFILL = 1
    DECODE = 2


@dataclass(eq=False)
class Slot:
    """A place for one request at a time. Its KV cache outlives the request."""

    number: int
    """Its sequence in the context; changes when the slot moves."""
    tokens: NDArray[np.int32]
    """What the sequence holds up to `past`, then what of the prompt comes next up to `goal`."""
    past: int = 0
    goal: int = 0
    exact: int = 0
    """How much of `past` was computed by itself, in whole chunks from the beginning on."""
    phase: Phase = Phase.FREE
    task: Task | None = None
    last: int = 0
    """The token to compute next, when decoding."""
    used: int = 0
    """When it was last taken, in requests since the start."""

    @property
    def held(self) -> NDArray[np.int32]:
        """The tokens whose keys and values are in the cache."""
        return self.tokens[: self.past]

    @property
    def alone(self) -> bool:
        """Whether its request is computed apart from all others."""
        return self.task is not None and self.task.apart


@dataclass
class Slots:
    """All of them, in the order of their sequences."""

    slots: list[Slot] = field(default_factory=list)
    adjacent: bool = True

    @classmethod
    def of(cls, count: int, size: int, *, adjacent: bool) -> Slots:
        """`count` empty slots of `size` tokens."""
        return cls([Slot(n, np.zeros(size, np.int32)) for n in range(count)], adjacent)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.slots)

    def active(self) -> list[Slot]:
        """Those with a request, by sequence."""
        return [slot for slot in self.slots if slot.task is not None]

    def free(self) -> bool:
        """Whether a request can be placed."""
        return any(slot.task is None for slot in self.slots)

    def place(self, prompt: NDArray[np.int32]) -> Slot:
        """The best free slot for a prompt: near the active ones, then the longest prefix, then
        the one whose content was not used for longest. There must be a free one.
        """
        taken = [slot.number for slot in self.slots if slot.task is not None]

        def merit(slot: Slot) -> tuple[int, int, int]:
            away = 0
            if taken and self.adjacent:
                away = min(abs(slot.number - number) for number in taken)
            return -away, common(slot.held, prompt), -slot.used

        return max((slot for slot in self.slots if slot.task is None), key=merit)

    def to_move(self) -> tuple[Slot, Slot] | None:
        """An active slot at the end and the hole it should move into, when there is a hole."""
        active = self.active()
        if not self.adjacent or len(active) < 2:
            return None
        if active[-1].number - active[0].number + 1 == len(active):
            return None
        inside = self.slots[active[0].number : active[-1].number]
        hole = next(slot for slot in inside if slot.task is None)
        for slot in (active[-1], active[0]):
            left = slot.task.left if slot.task is not None else 0
            if slot.phase is Phase.DECODE and left > _WORTH_MOVING:
                return slot, hole
        return None

    def swap(self, one: Slot, other: Slot) -> None:
        """Exchange the sequences of two slots, when their content was exchanged."""
        one.number, other.number = other.number, one.number
        self.slots.sort(key=lambda slot: slot.number)
