"""What a simulated worker remembers of the prompts it has read: the longest common beginning.

Owns the memory of one worker, bounded in tokens, the longest unused prompt first out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from rbee.sim.asks import Segment


class Remembered:
    """Prompts with their answers, at most so many tokens in all."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[tuple[Segment, ...], int] = OrderedDict()
        self._tokens = 0

    @property
    def tokens(self) -> int:
        """Held now."""
        return self._tokens

    def known(self, prompt: Sequence[Segment]) -> int:
        """Tokens of the prompt, from its beginning, that need not be read again; never all."""
        best: tuple[Segment, ...] | None = None
        most = 0
        for held in self._held:
            common = _common(held, prompt)
            if common > most:
                best, most = held, common
        if best is not None:
            self._held.move_to_end(best)
        return max(0, min(most, sum(tokens for _, tokens in prompt) - 1))

    def keep(self, text: tuple[Segment, ...]) -> None:
        """It was read or written; what is a beginning of it needs no room of its own."""
        for held in [h for h in self._held if _common(h, text) == self._held[h]]:
            self._tokens -= self._held.pop(held)
        self._held[text] = sum(tokens for _, tokens in text)
        self._tokens += self._held[text]
        while self._tokens > self._most and self._held:
            self._tokens -= self._held.popitem(last=False)[1]


def _common(held: Sequence[Segment], prompt: Sequence[Segment]) -> int:
    total = 0
    for (name, tokens), (other, asked) in zip(held, prompt, strict=False):
        if name != other:
            break
        total += min(tokens, asked)
        if tokens != asked:
            break
    return total
