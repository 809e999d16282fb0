"""Text to tokens and tokens to bytes, with a tokenizer of Hugging Face's `tokenizers`.

Owns the vocabulary's side of a loaded model. A token's bytes are what it adds to an answer, not
what the tokenizer's decoder would make of it alone: decoders tidy the beginning and the end of a
text, and answers are made piece by piece. How bytes are written in the table of tokens is told by
the tokenizer's own decoder: byte-level (GPT-2's alphabet of printable characters) or SentencePiece
(`▁` for a space, `<0x0A>` for a byte).
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbee.errors import InternalError, ModelIncompatible, ValidationFailed

from .pieces import Pieces

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "▁"
_LONGEST = 64 << 20
"""Characters; longer ones are no question any model has room for."""
_ENDS = (
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>",
    "<|end|>", "<|return|>", "<|call|>", "<EOT>", "<|eot|>", "</s>",
)  # fmt: skip
"""Control tokens that end an answer whatever a model's files forget to say; llama.cpp knows most of
them by name too (llama-vocab.cpp, special_eog_ids)."""


class Vocab:
    """See shared.vocabulary.Vocabulary."""

    def __init__(self, tokenizer: Any, *, size: int, ends: frozenset[int] = frozenset()) -> None:
        """`tokenizer`: transformers' fast one; `size`: of a row of logits; `ends`: as the model's
        configuration names them. Raises ModelIncompatible."""
        self._fast: Any = getattr(tokenizer, "backend_tokenizer", None)
        if self._fast is None:
            raise ModelIncompatible(
                "the model's tokenizer is no `tokenizers` one (it has no tokenizer.json)",
                action="Choose a copy of this model with a tokenizer.json.",
            )
        self._fast.no_padding()
        self._fast.no_truncation()
        self._lock = threading.Lock()
        self._size = size
        self._names: dict[int, str] = {
            number: name for name, number in self._fast.get_vocab(with_added_tokens=True).items()
        }
        added: Mapping[int, Any] = self._fast.get_added_tokens_decoder()
        self._added = {number: token.content for number, token in added.items()}
        self._control = {number for number, token in added.items() if token.special}
        self._to_bytes = _writing(self._fast)
        self._known: dict[int, bytes] = {}
        self.bos: int = _id(tokenizer.bos_token_id)
        self.eos: int = _id(tokenizer.eos_token_id)
        known = {self._token(name) for name in _ENDS} & self._control
        found = {*known, *ends, self.eos} - {-1}
        self._end_tokens = frozenset(token for token in found if 0 <= token < size)
        self._ends = np.array(sorted(self._end_tokens), np.intp)
        self._begins = self._says_first()

    @property
    def size(self) -> int:
        """See Vocabulary."""
        return self._size

    @property
    def ends(self) -> NDArray[np.intp]:
        """See Vocabulary."""
        return self._ends

    @property
    def end_tokens(self) -> frozenset[int]:
        """See Vocabulary."""
        return self._end_tokens

    @property
    def pieces(self) -> Pieces:
        """See Vocabulary."""
        return self._pieces

    def is_end(self, token: int) -> bool:
        """See Vocabulary."""
        return token in self._end_tokens

    def token_bytes(self, token: int) -> bytes:
        """See Vocabulary."""
        known = self._known.get(token)
        if known is None:
            known = self._known[token] = self._piece(token)
        return known

    def tokenize(self, text: str, *, special: bool, markers: bool = True) -> NDArray[np.int32]:
        """See Vocabulary. Of what the tokenizer puts around a text only the beginning is added: an
        end would end the question. Raises ValidationFailed for a text beyond 64 Mi characters."""
        tokens = self._encoded(text, whole=False, markers=markers)
        if special and self._begins:
            tokens = [*self._begins, *tokens]
        return np.array(tokens, np.int32)

    def around(self, text: str) -> list[int]:
        """Tokens of a text with all that the tokenizer puts around it, for vectors."""
        return self._encoded(text, whole=True, markers=False)

    def show(self, marker: str) -> None:
        """Let the control token of this name, if there is one, be part of answers as text."""
        token = self._token(marker)
        if token in self._control:
            self._known[token] = marker.encode()

    def name(self, token: int) -> str:
        """A token as it is written in the table; empty where the model has none."""
        return self._names.get(token, "")

    @functools.cached_property
    def _pieces(self) -> Pieces:
        return Pieces(self.token_bytes(token) for token in range(self._size))

    def _encoded(self, text: str, *, whole: bool, markers: bool) -> list[int]:
        if len(text) > _LONGEST:
            raise ValidationFailed("prompt: too long", field="prompt", constraint="tokenizable")
        clean = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates have no UTF-8
        with self._lock:  # the switch is the tokenizer's own
            self._fast.encode_special_tokens = not markers
            tokens: list[int] = self._fast.encode(clean, add_special_tokens=whole).ids
        return tokens

    def _token(self, name: str) -> int:
        found = self._fast.token_to_id(name)
        return -1 if found is None else int(found)

    def _says_first(self) -> list[int]:
        """What the tokenizer puts before every text: the BOS token or nothing."""
        around = self._encoded("", whole=True, markers=True)
        return around[:1] if around and around[0] == self.bos else []

    def _piece(self, token: int) -> bytes:
        if not 0 <= token < self._size:
            raise InternalError(f"token {token} is not in a vocabulary of {self._size}")
        if token in self._control or token in self._end_tokens:
            return b""
        if (added := self._added.get(token)) is not None:
            return added.encode()
        name = self._names.get(token)
        return b"" if name is None else self._to_bytes(name)


def _id(token: Any) -> int:
    return token if isinstance(token, int) else -1


def _writing(fast: Any) -> Any:
    """How the table writes bytes: a function from a token's name to them."""
    decoder = json.loads(fast.to_str()).get("decoder") or {}
    kinds = {part.get("type") for part in [decoder, *decoder.get("decoders", ())]}
    if "ByteLevel" in kinds:
        return functools.partial(_byte_level, _alphabet())
    if kinds & {"ByteFallback", "Metaspace"} or "Replace" in kinds:
        return _sentence_piece
    if "WordPiece" in kinds:
        return _word_piece
    named = ", ".join(sorted(str(kind) for kind in kinds if kind)) or "none"
    raise ModelIncompatible(
        f"the model's tokenizer writes its tokens in a way that is not known here ({named})",
        action="Choose another model, or a GGUF file of this one for llamacpp.",
    )


def _byte_level(alphabet: Mapping[str, int], name: str) -> bytes:
    try:
        return bytes(alphabet[char] for char in name)
    except KeyError:  # a token that was added by hand
        return name.encode()


def _sentence_piece(name: str) -> bytes:
    match = _BYTE.fullmatch(name)
    return bytes((int(match[1], 16),)) if match else name.replace(_SPACE, " ").encode()


def _word_piece(name: str) -> bytes:
    return name[2:].encode() if name.startswith("##") else b" " + name.encode()


@functools.cache
def _alphabet() -> dict[str, int]:
    """GPT-2's: printable bytes stand for themselves, the others for characters from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    found = {chr(byte): byte for byte in plain}
    return found | {chr(0x100 + place): byte for place, byte in enumerate(rest)}
