"""From token bytes to text that is safe to send.

Owns two things: characters that several tokens make together, and stop strings that several tokens
make together. Text that may be the beginning of a stop string is held back until it is known.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """One answer. `stopped` is set once a stop string has appeared; nothing comes after it."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def feed(self, data: bytes) -> str:
        """The text that can be sent after these bytes."""
        if self.stopped:
            return ""
        text = self._held + self._decoder.decode(data)
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, at the end of the answer. Half a character is dropped."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """How long the longest end of the text is that begins the stop string."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
