"""What every token stands for, in bytes: the table a grammar needs to look at all tokens at once.

Owns one blob and its offsets (3 MB for 262 k tokens, where a list of bytes objects takes 15). It
takes a quarter of a second to ask a library for as many, so it is made when first needed.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_STRICT = codecs.getincrementaldecoder("utf-8")


class Pieces:
    """The bytes of all tokens, in order of their ids; empty for control tokens."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        blob, ends, textual = bytearray(), [0], bytearray()
        for piece in pieces:
            blob += piece
            ends.append(len(blob))
            textual.append(_is_textual(piece))
        self._blob = bytes(blob)
        self._offsets = np.array(ends, np.int32)
        self.textual: NDArray[np.bool_] = np.frombuffer(bytes(textual), np.bool_)
        """Which tokens can be a part of text: not empty, no NUL, no bytes that no UTF-8 has."""
        self.first: NDArray[np.uint8] = np.zeros(len(textual), np.uint8)
        """The first byte of each token; 0 for an empty one."""
        lengths = np.diff(self._offsets)
        filled = lengths > 0
        self.first[filled] = np.frombuffer(self._blob, np.uint8)[self._offsets[:-1][filled]]
        self.single: NDArray[np.intp] = np.full(256, -1)
        """Byte → a token that is just this byte; -1 where the vocabulary has none."""
        alone = (lengths == 1).nonzero()[0]
        self.single[self.first[alone]] = alone

    def __len__(self) -> int:
        return len(self.textual)

    def __getitem__(self, token: int) -> bytes:
        return self._blob[self._offsets[token] : self._offsets[token + 1]]


def begins_text(data: bytes) -> bool:
    """Whether some UTF-8 text begins with these bytes, which may end within a character."""
    try:
        tail = unfinished(data)
    except UnicodeDecodeError:
        return False
    return not (tail[:1] == b"\xed" and tail[1:] >= b"\xa0")  # Python waits for a surrogate's end


def unfinished(data: bytes) -> bytes:
    """The bytes of the character that a beginning of text ends within; empty after a whole one."""
    decoder = _STRICT()
    decoder.decode(data)
    return decoder.getstate()[0]


def _is_textual(piece: bytes) -> bool:
    if piece.isascii():
        return bool(piece) and 0 not in piece
    start = 0
    while start < min(3, len(piece)) and piece[start] & 0xC0 == 0x80:
        start += 1  # the end of a character that a token before began
    return 0 not in piece and begins_text(piece[start:])
