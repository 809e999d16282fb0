"""The vocabulary of the packaged model, without its weights: quick to load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rbee.backends.llamacpp.native import library
from rbee.backends.llamacpp.vocab import Vocab

from rbee.models import packages


@contextmanager
def packaged_vocab() -> Iterator[Vocab]:
    lib = library()
    packaged = packages.packaged("smollm2-135m")
    assert packaged is not None
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(str(packaged.path).encode(), params)
    assert model
    try:
        yield Vocab(model)
    finally:
        lib.llama_model_free(model)
