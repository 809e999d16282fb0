"""A line of things by arrival: whoever came first stands first, and anyone may leave.

Knows nothing of jobs. Adding, leaving and counting who stands before whom cost the logarithm and a
block's length, because ten thousand may wait and the one in the middle is as often cancelled.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
Arrival = tuple[float, int]
"""When it came, monotonic seconds, and a number that tells those of one moment apart."""

BLOCK = 512
"""Keys in one sorted block: moving so many pointers costs less than one more step in Python."""


class Line(Generic[T]):
    """Items by arrival, each arrival once. Iterates from the first."""

    __slots__ = ("_blocks", "_items")

    def __init__(self) -> None:
        self._items: dict[Arrival, T] = {}
        self._blocks: list[list[Arrival]] = []

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        for block in self._blocks:
            for key in block:
                yield self._items[key]

    def __contains__(self, key: Arrival) -> bool:
        return key in self._items

    def add(self, key: Arrival, item: T) -> None:
        """Stand where the arrival belongs, which mostly is the end. Raises ValueError: taken."""
        if key in self._items:
            raise ValueError(f"arrival {key} stands in the line already")
        self._items[key] = item
        blocks = self._blocks
        if not blocks:
            blocks.append([key])
            return
        if key > blocks[-1][-1]:
            if len(blocks[-1]) >= BLOCK:
                blocks.append([key])
            else:
                blocks[-1].append(key)
            return
        n = self._block(key)
        insort(blocks[n], key)
        if len(blocks[n]) > 2 * BLOCK:
            blocks.insert(n + 1, blocks[n][BLOCK:])
            del blocks[n][BLOCK:]

    def remove(self, key: Arrival) -> T:
        """Leave. Raises KeyError when nothing of this arrival stands there."""
        item = self._items.pop(key)
        n = self._block(key)
        block = self._blocks[n]
        del block[bisect_left(block, key)]
        if not block:
            del self._blocks[n]
        return item

    def first(self) -> T:
        """Who came first. Raises IndexError when the line is empty."""
        return self._items[self._blocks[0][0]]

    def before(self, key: Arrival) -> int:
        """How many came before this arrival, whether that stands here or not."""
        if not self._blocks:
            return 0
        n = self._block(key)
        if n == 0:
            return bisect_left(self._blocks[0], key)
        return sum(map(len, self._blocks[:n])) + bisect_left(self._blocks[n], key)

    def at(self, place: int) -> Arrival:
        """The arrival that `place` others precede. Raises IndexError past the end."""
        for block in self._blocks:
            if place < len(block):
                return block[place]
            place -= len(block)
        raise IndexError(place)

    def _block(self, key: Arrival) -> int:
        if len(self._blocks) == 1:
            return 0
        return max(0, bisect_right(self._blocks, key, key=lambda block: block[0]) - 1)
