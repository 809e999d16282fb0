"""Text to tokens and tokens to bytes.

Owns the vocabulary's side of a loaded model. Buffers grow to what the library asks for. A token's
bytes are asked for once: of a vocabulary few tokens are ever used. `pieces` has the bytes of all,
for who must look at all of them.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbee.errors import InternalError, ValidationFailed

from ..shared.pieces import Pieces
from .native import library, quick

_OVERFLOW = -(1 << 31)


class Vocab:
    """The vocabulary of a model that is loaded and stays loaded."""

    def __init__(self, model: Any) -> None:
        lib = library()
        self._lib = lib
        self._vocab = lib.llama_model_get_vocab(model)
        if not self._vocab:
            raise InternalError("the model has no vocabulary")
        self.size: int = lib.llama_vocab_n_tokens(self._vocab)
        self.bos: int = lib.llama_vocab_bos(self._vocab)
        self.eos: int = lib.llama_vocab_eos(self._vocab)
        is_end = quick("llama_vocab_is_eog")
        ends = [token for token in range(self.size) if is_end(self._vocab, token)]
        self.ends: NDArray[np.intp] = np.array(ends, np.intp)
        """The tokens that end an answer, ascending."""
        self.end_tokens: frozenset[int] = frozenset(ends)
        self._known: dict[int, bytes] = {}

    @property
    def pointer(self) -> Any:
        """The library's handle; valid while the model is loaded."""
        return self._vocab

    @property
    def pieces(self) -> Pieces:
        """The bytes of all tokens. The first call takes about a second per million tokens."""
        return self._pieces

    @functools.cached_property
    def _pieces(self) -> Pieces:
        return Pieces(self._piece(token, special=False) for token in range(self.size))

    def tokenize(self, text: str, *, special: bool, markers: bool = True) -> NDArray[np.int32]:
        """Tokens of the text, markers like <|im_end|> among them, or as plain text without
        `markers`; `special` adds the model's BOS.

        Raises ValidationFailed for a text beyond 2^31 tokens.
        """
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8
        for _ in range(2):
            out = np.empty(room, np.int32)
            pointer = ctypes.cast(out.ctypes.data, ctypes.POINTER(ctypes.c_int32))
            count = self._lib.llama_tokenize(
                self._vocab, raw, len(raw), pointer, room, special, markers
            )
            if count >= 0:
                return out[:count].copy()
            if count == _OVERFLOW:
                break
            room = -count
        raise ValidationFailed("prompt: too long", field="prompt", constraint="tokenizable")

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for, perhaps half a character; empty for control tokens."""
        known = self._known.get(token)
        if known is None:
            known = self._known[token] = self._piece(token, special=False)
        return known

    def show(self, marker: str) -> None:
        """Let the control token of this name, if there is one, be part of answers as text."""
        tokens = self.tokenize(marker, special=False)
        if len(tokens) == 1 and not self.token_bytes(token := int(tokens[0])):
            self._known[token] = marker.encode()

    def name(self, token: int) -> str:
        """A control token as text (`<|im_end|>`); empty where the model has none."""
        return self._piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def is_end(self, token: int) -> bool:
        """Whether the token ends the answer."""
        return token in self.end_tokens

    def _piece(self, token: int, *, special: bool) -> bytes:
        if not 0 <= token < self.size:
            raise InternalError(f"token {token} is not in a vocabulary of {self.size}")
        piece = quick("llama_token_to_piece")
        room = 64
        for _ in range(2):
            out = ctypes.create_string_buffer(room)
            count = piece(self._vocab, token, out, room, 0, special)
            if count >= 0:
                return out.raw[:count]
            room = -count
        raise InternalError(f"token {token} has no text")
