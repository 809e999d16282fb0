"""From token bytes to text that is safe to send.

Owns two things: characters that several tokens make together, and stop strings that several tokens
make together. Text that may be the beginning of a stop string is held back until it is known.

The text of an answer does not depend on how its bytes are cut into tokens. It ends as if its
characters came one at a time: before the stop string that is complete first, and where two are
complete with the same character, before the longer one. llama.cpp and OpenAI's API judge once per
token instead, which is the same wherever stop strings do not overlap.
"""

from __future__ import annotations

import re
from codecs import utf_8_decode
from collections.abc import Sequence


class TextStream:
    """One answer. `stop` is the stop string that has appeared; nothing comes after it."""

    __slots__ = ("_begins", "_bytes", "_held", "_stops", "stop")

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(dict.fromkeys(stop for stop in stops if stop))
        firsts = "".join(re.escape(stop[0]) for stop in self._stops)
        self._begins = re.compile(f"[{firsts}]").search if firsts else None
        self._bytes = b""
        self._held = ""
        self.stop = ""

    @property
    def stopped(self) -> bool:
        """Whether one has."""
        return bool(self.stop)

    @property
    def held(self) -> int:
        """How many characters wait because a stop string may begin with them."""
        return len(self._held)

    def feed(self, data: bytes) -> str:
        """The text that can be sent after these bytes; U+FFFD for those that are no UTF-8."""
        if self._bytes:
            data = self._bytes + data
        text, used = utf_8_decode(data, "replace")
        self._bytes = data[used:]
        if self._begins is None:
            return text
        if self.stopped:
            return ""
        if self._held:
            text = self._held + text
        elif self._begins(text) is None:
            return text
        return self._stopping(text)

    def sent(self, text: str) -> bool:
        """What is held back begins with this text, which was sent already; False if it does not."""
        if not self._held.startswith(text):
            return False
        self._held = self._held[len(text) :]
        return True

    def flush(self) -> str:
        """What was held back, at the end of the answer. Half a character is dropped."""
        text, self._held, self._bytes = self._held, "", b""
        return text

    def _stopping(self, text: str) -> str:
        """Cut the text before a whole stop string, or before what may become one."""
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.stop = min(found)
            self._held = ""
            return text[:at]
        cut = min(_beginning(text, stop) for stop in self._stops)
        self._held = text[cut:]
        return text[:cut]


def _beginning(text: str, stop: str) -> int:
    """Where the longest end of the text is that begins the stop string; its length if none."""
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0:
        if stop.startswith(text[at:]):
            return at
        at = text.find(stop[0], at + 1)
    return len(text)
