"""Gives a slot the longest computed beginning of a prompt, wherever that lies.

Owns the moves of KV content: within the slot, from another slot, from host memory, and into host
memory before it is lost. Between slots content travels through host memory, which costs about 5 ms
for 1000 tokens of a small model and leaves a copy for the next; the library's own copy moves a
slot's whole cache and is quicker where that lies in a GPU's memory.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .context import Context
from .pace import CHUNK
from .prefix import HostCache, Kept, common
from .slots import Slot, Slots
from .task import Task

SHARE = 32
"""Tokens that another place must have more of a prompt than this slot, to be worth a copy."""
_WORTH_KEEPING = 128


class Prefixes:
    """Used by the engine's thread only."""

    def __init__(self, context: Context, slots: Slots, *, capacity: int, on_device: bool) -> None:
        self._context = context
        self._slots = slots
        self._host = HostCache(capacity)
        self._on_device = on_device

    def coming(self, task: Task) -> bool:
        """Whether a slot is just computing clearly more of the task's prompt than is there yet."""
        if not task.request.cache:
            return False
        prompt = task.reusable
        exact = task.repeatable
        have = max(_usable(slot.held, slot.exact, prompt, exact) for slot in self._slots)
        for slot in self._slots:
            if slot.task is None or slot.past >= slot.goal:
                continue
            if exact and not (slot.task.repeatable and slot.exact == slot.past):
                continue  # `exact` grows no more
            length = common(slot.tokens[: slot.goal], prompt)
            if exact:
                length = length // CHUNK * CHUNK
            if length >= have + SHARE:
                return True
        return False

    def give(self, slot: Slot, task: Task) -> int:
        """Make `slot` hold as much of the task's prompt as is known and may be reused; returns how
        much."""
        prompt = task.reusable
        own, source, best = 0, None, 0
        if task.request.cache:
            exact = task.repeatable
            own = best = _usable(slot.held, slot.exact, prompt, exact)
            for other in self._slots:
                length = _usable(other.held, other.exact, prompt, exact)
                if length >= best + SHARE:
                    source, best = other, length
            kept, _ = self._host.best(prompt)
            if (
                kept is not None
                and (length := _usable(kept.tokens, kept.exact, prompt, exact)) >= best + SHARE
            ):
                source, best = kept, length
        if slot.past - own >= _WORTH_KEEPING:
            # Keeping may push the source out of the ring: then what is found is what counts.
            self._keep(slot)
            if isinstance(source, Kept) and self._host.holds(source.tokens) is not source:
                source = None
        if source is None:
            return self._cut(slot, own)
        filled = self._copy(source, slot) if isinstance(source, Slot) else self._load(source, slot)
        return self._cut(slot, best if filled else 0)

    def move(self, slot: Slot, hole: Slot) -> None:
        """Exchange a running slot's sequence with a free one's; the free one's content is lost."""
        if hole.past >= _WORTH_KEEPING:
            self._keep(hole)
        self._context.copy(slot.number, hole.number)
        self._context.forget(slot.number)
        hole.past = hole.exact = 0
        self._slots.swap(slot, hole)

    def drop_idle(self) -> bool:
        """Forget the free slot's content that was not used for longest; whether there was any."""
        idle = [slot for slot in self._slots if slot.task is None and slot.past]
        if idle:
            self.drop(min(idle, key=lambda slot: slot.used))
        return bool(idle)

    def drop(self, slot: Slot) -> None:
        """Forget what a slot holds."""
        self._cut(slot, 0)

    def close(self) -> None:
        """Give the host memory back."""
        self._host.clear()

    def _cut(self, slot: Slot, keep: int) -> int:
        slot.past = self._context.forget(slot.number, keep)
        slot.exact = min(slot.exact, slot.past // CHUNK * CHUNK)
        return slot.past

    def _keep(self, slot: Slot) -> Kept | None:
        """A copy in host memory of what a slot holds, unless there is one."""
        found = self._host.holds(slot.held)
        if found is not None:
            return found
        size = self._context.state_bytes(slot.number)

        def write(state: NDArray[np.uint8]) -> bool:
            return self._context.save(slot.number, state)

        return self._host.put(slot.held, slot.exact, size, write)

    def _load(self, kept: Kept, slot: Slot) -> bool:
        if not self._context.restore(slot.number, kept.state):
            return False
        self._holds(slot, kept.tokens, kept.exact)
        return True

    def _copy(self, source: Slot, slot: Slot) -> bool:
        if not self._on_device:
            kept = self._keep(source)
            if kept is not None:
                return self._load(kept, slot)
        self._context.copy(source.number, slot.number)
        self._holds(slot, source.held, source.exact)
        return True

    @staticmethod
    def _holds(slot: Slot, tokens: NDArray[np.int32], exact: int) -> None:
        slot.past, slot.exact = len(tokens), exact
        slot.tokens[: slot.past] = tokens


def _usable(held: NDArray[np.int32], whole: int, prompt: NDArray[np.int32], exact: bool) -> int:
    """How much of a prompt is held in a form that may be used; `whole`: see Slot.exact."""
    length = common(held, prompt)
    return min(length, whole) // CHUNK * CHUNK if exact else length
