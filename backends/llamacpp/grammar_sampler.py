"""Which tokens a grammar allows next: llama.cpp's grammar, asked so that it cannot end the process.

Owns one request's grammar state in the library. Its text was checked before (here only what the
library refuses is refused). A token is accepted only after it was allowed: accepting another one
aborts. What llama.cpp leaves open is closed here:

* It reads control tokens as their names (`<|im_end|>`), though the answer gets nothing from them,
  and stops at a NUL within a token. Neither is allowed here; tokens that end the answer are, where
  the grammar's sentence may end.
* It takes bytes that are no UTF-8 (an overlong form, a surrogate) for a character. Here a token
  must leave the answer the beginning of UTF-8 text.

Looking at all of 49 k tokens takes 3 to 9 ms. So bytes are asked for first (0.1 ms): a token is
only possible when the token that is just its first byte is allowed, for the beginning of a
sentence's beginning is one too. Where JSON must begin, that leaves 11 tokens. It does not hold for
grammars that name tokens (`<[42]>`, `<think>`); for a text with `<` in it every first byte counts
as possible.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbee.errors import InternalError, ValidationFailed

from ..shared.candidates import Ids, Row, most_likely
from ..shared.pieces import begins_text, unfinished
from .native import LOG, library, quick
from .vocab import Vocab

_ENTRY = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
_WINDOWS = (256, 4096)
"""So many of the possible tokens, the likeliest, are looked at, then so many, then all."""
_QUICK = 2048
"""More tokens than this are masked with the GIL given up: it takes milliseconds."""


class Grammar:
    """The state of one grammar; `close` frees it."""

    def __init__(self, text: str, vocab: Vocab) -> None:
        """Raises ValidationFailed when llama.cpp cannot read the text."""
        self._sampler: Any = None
        self._vocab = vocab
        self._pieces = vocab.pieces
        self._ends = np.zeros(vocab.size, np.bool_)
        self._ends[vocab.ends] = True
        self._usable = self._pieces.textual | self._ends
        self._by_first_byte = "<" not in text
        self._pending = b""
        self._known = -1
        self._one = _Entries(1)
        self._sampler = _make(text, vocab)

    def allows(self, token: int) -> bool:
        """Whether the token may come next."""
        if not self._usable[token] or (self._pending and not self._continues(token)):
            return False
        self._one.fill(token)
        quick("llama_sampler_apply")(self._sampler, self._one.reference)
        allowed = bool(self._one.kept()[0])
        if allowed:
            self._known = token
        return allowed

    def among(self, row: Row) -> Ids:
        """The tokens that may come next and are not banned (-inf in the row); perhaps none.

        Of a large choice, those among the 256 likeliest of the possible ones; when none of these
        is allowed, those among the next 4096, and then of all. So the likeliest allowed one is
        always there, and what is left out is less likely than hundreds of others.
        """
        possible = (self._possible() & (row > -np.inf)).nonzero()[0]
        for window in _WINDOWS:
            if len(possible) <= window:
                break
            places, _ = most_likely(row[possible], window)
            found = self._allowed(possible[np.sort(places)])
            if len(found):
                return found
            possible = np.delete(possible, places)
        return self._allowed(possible)

    def end(self) -> int | None:
        """A token that ends the answer, if the sentence may end here."""
        ends = self._allowed(self._vocab.ends)
        if self._vocab.eos in ends:
            return self._vocab.eos
        return int(ends[0]) if len(ends) else None

    def accept(self, token: int) -> None:
        """Go on by a token. Raises InternalError for one that is not allowed."""
        if token != self._known and not self.allows(token):
            raise InternalError(f"the grammar does not allow the token {token}")
        self._known = -1
        quick("llama_sampler_accept")(self._sampler, token)
        if not self._ends[token]:
            self._pending = unfinished(self._pending + self._pieces[token])

    def close(self) -> None:
        """Free the state; nothing may be asked after."""
        if self._sampler:
            quick("llama_sampler_free")(self._sampler)
            self._sampler = None

    def _continues(self, token: int) -> bool:
        return begins_text(self._pending + self._pieces[token])

    def _possible(self) -> NDArray[np.bool_]:
        """The tokens whose first byte may come next, and those that end the answer."""
        firsts = np.ones(256, np.bool_)
        if self._by_first_byte:
            known = (self._pieces.single >= 0).nonzero()[0]
            firsts[known] = self._mask(self._pieces.single[known])
        if self._pending:
            for byte in firsts.nonzero()[0].tolist():
                firsts[byte] = begins_text(self._pending + bytes((byte,)))
        return (firsts[self._pieces.first] & self._pieces.textual) | self._ends

    def _allowed(self, ids: Ids) -> Ids:
        return ids[self._mask(ids)]

    def _mask(self, ids: Ids) -> NDArray[np.bool_]:
        if not len(ids):
            return np.zeros(0, np.bool_)
        entries = _Entries(len(ids))
        entries.fill(ids)
        apply = quick("llama_sampler_apply")
        if len(ids) > _QUICK:
            apply = library().llama_sampler_apply
        apply(self._sampler, entries.reference)
        return entries.kept()


class _Entries:
    """llama.cpp's array of candidates, its memory owned by numpy."""

    def __init__(self, count: int) -> None:
        lib = library()
        self._data = np.zeros(count, _ENTRY)
        pointer = ctypes.cast(self._data.ctypes.data, ctypes.POINTER(lib.llama_token_data))
        self._array = lib.llama_token_data_array(pointer, count, -1, False)
        self.reference = ctypes.byref(self._array)

    def fill(self, ids: Ids | int) -> None:
        self._data["id"] = ids
        self._data["logit"] = 0.0

    def kept(self) -> NDArray[np.bool_]:
        return self._data["logit"] == 0.0


def _make(text: str, vocab: Vocab) -> Any:
    raw = text.encode("utf-8", "replace")
    if not raw.strip() or b"\0" in raw:  # C would read no grammar, or half of it
        raise ValidationFailed(
            "grammar: it is empty or has a NUL character", field="grammar", constraint="GBNF"
        )
    LOG.clear()
    sampler = library().llama_sampler_init_grammar(vocab.pointer, raw, b"root")
    if not sampler:
        raise ValidationFailed(
            f"grammar: llama.cpp cannot read it: {LOG.reason()}", field="grammar", constraint="GBNF"
        )
    return sampler
