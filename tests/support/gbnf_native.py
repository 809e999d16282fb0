"""llama.cpp's word on grammars: a program, since a wrong one may end the process.

Reads `[[grammar, [text, …]], …]` as JSON from standard input and prints a line for each grammar:
null where the library refuses it, otherwise for each text whether it is a sentence, token by token,
null for a text with bytes that the model has no token for.
"""

from __future__ import annotations

import ctypes
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rbee.backends.llamacpp.native import library

from rbee.models import packages

ROOT = Path(__file__).parents[2]


def ask(work: Sequence[tuple[str, Sequence[str]]]) -> list[list[bool | None] | None]:
    """The library's answers, from a process of its own; a death of it is an error."""
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(work), capture_output=True, text=True, timeout=60, cwd=ROOT, check=False,
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode != 0 or len(found) != len(work):
        died_on = work[len(found)] if len(found) < len(work) else None
        raise AssertionError(f"exit {done.returncode} at {died_on!r}: {done.stderr[-500:]}")
    return found


def agree(work: Sequence[tuple[str, Sequence[str]]], expected: Sequence[Sequence[bool]]) -> None:
    """Fails unless the library takes every grammar, and the same texts as somebody else does."""
    compared = 0
    for answer, (source, texts), wanted in zip(ask(work), work, expected, strict=True):
        assert answer is not None, source
        for taken, text, want in zip(answer, texts, wanted, strict=True):
            assert taken in (want, None), (source, text)
            compared += taken is not None
    assert compared > 0.5 * sum(len(texts) for _, texts in work)


def main() -> None:
    lib: Any = library()
    found = packages.packaged("smollm2-135m")
    assert found is not None
    params = lib.llama_model_default_params()
    params.vocab_only = True
    vocab = lib.llama_model_get_vocab(
        lib.llama_model_load_from_file(str(found.path).encode(), params)
    )
    for text, sentences in json.load(sys.stdin):
        grammar = lib.llama_sampler_init_grammar(vocab, text.encode(), b"root")
        answer = None
        if grammar:
            answer = [_is_sentence(lib, vocab, grammar, sentence) for sentence in sentences]
            lib.llama_sampler_free(grammar)
        print(json.dumps(answer), flush=True)  # noqa: T201 - a program's output


def _is_sentence(lib: Any, vocab: Any, grammar: Any, text: str) -> bool | None:
    lib.llama_sampler_reset(grammar)
    data = text.encode()
    tokens = (lib.llama_token * (len(data) + 8))()
    count = lib.llama_tokenize(vocab, data, len(data), tokens, len(tokens), False, False)
    assert count >= 0
    if b"".join(_piece(lib, vocab, token) for token in tokens[:count]) != data:
        return None
    for token in [*tokens[:count], lib.llama_vocab_eos(vocab)]:
        one = (lib.llama_token_data * 1)(lib.llama_token_data(token, 0.0, 0.0))
        row = lib.llama_token_data_array(data=one, size=1, selected=-1, sorted=False)
        lib.llama_sampler_apply(grammar, ctypes.byref(row))
        if one[0].logit == -math.inf:
            return False
        lib.llama_sampler_accept(grammar, token)
    return True


def _piece(lib: Any, vocab: Any, token: int) -> bytes:
    room = ctypes.create_string_buffer(256)
    size = lib.llama_token_to_piece(vocab, token, room, len(room), 0, False)
    assert size >= 0
    return room.raw[:size]


if __name__ == "__main__":
    main()
