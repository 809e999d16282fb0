"""Loads model files as a worker does, each in a process of its own, and tells how that ended.

`trial(paths)` starts one helper, which loads llama.cpp once and forks for every file; the fork
reads the header with rbee's checks, loads the weights, makes a context, and decodes once. A fork
that dies by a signal is told as such: that is what rbee's checks are there to prevent.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MEMORY = 6 << 30
"""Address space of a fork: a size nobody checked then fails here instead of filling the machine."""
SECONDS = 20


def trial(paths: Iterable[Path], *, checked: bool = True) -> Iterator[tuple[Path, str, str]]:
    """(path, outcome, words): `loaded`, `refused` with code and message, or `died` with the signal.

    `checked=False` leaves rbee's own checks out: what a file does to llama.cpp then shows.
    """
    command = [
        sys.executable,
        "-m",
        "tests.support.load_trial",
        *([] if checked else ["unchecked"]),
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for path in paths:
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            yield path, answer["outcome"], answer["words"]
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(SECONDS)


def main() -> None:
    """The helper: a path per line in, an outcome per line out."""
    checked = "unchecked" not in sys.argv
    from rbee.backends.llamacpp import model, native

    from rbee.models import gguf, gguf_sanity

    del model, gguf, gguf_sanity  # each fork finds them imported
    native.library()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_apart(line.rstrip("\n"), checked)) + "\n")
        sys.stdout.flush()


def _apart(path: str, checked: bool) -> dict[str, str]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(SECONDS)
        try:
            told = _load(Path(path), checked)
        except Exception as exc:  # a defect of ours or of the trial: told, never hidden
            told = {"outcome": "failed", "words": f"{type(exc).__name__}: {exc}"}
        os.write(writing, json.dumps(told | {"words": told["words"][:1000]}).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return {"outcome": "died", "words": signal.Signals(number).name}
    return json.loads(told) if told else {"outcome": "died", "words": f"status {status}"}


def _load(path: Path, checked: bool) -> dict[str, str]:
    from rbee.backends.llamacpp import model as weights

    from rbee.errors import RbeeError
    from rbee.models import gguf, gguf_sanity

    try:
        if checked:
            gguf_sanity.check(gguf.read(path), path.name)
        model = weights.load(path, "cpu", lambda _: None, threading.Event())
        _use(model)
        model.close()
    except RbeeError as exc:
        return {"outcome": "refused", "words": f"{exc.code} {exc.message}"}
    return {"outcome": "loaded", "words": ""}


def _use(model: Any) -> None:
    """Everything the engine touches: template, tokens, names, a context for two, one decode."""
    from rbee.backends.llamacpp.native import LOG, library

    from rbee.errors import ModelLoadFailed

    lib = library()
    vocab = lib.llama_model_get_vocab(model.pointer)
    size = lib.llama_vocab_n_tokens(vocab)
    out = ctypes.create_string_buffer(4096)
    for token in range(min(size, 400)):
        lib.llama_token_to_piece(vocab, token, out, len(out), 0, True)
        lib.llama_token_to_piece(vocab, token, out, len(out), 0, False)
        lib.llama_vocab_is_eog(vocab, token)
        lib.llama_vocab_get_attr(vocab, token)
    for name in ("bos", "eos", "eot", "sep", "nl", "pad", "mask"):
        getattr(lib, f"llama_vocab_{name}")(vocab)
    tokens = (ctypes.c_int32 * 256)()
    count = 0
    for text in (b"the bees\n\x00 \xff\xfe dance <|im_start|>", "Grüße, 蜂 🐝".encode(), b""):
        for special in (True, False):
            count = lib.llama_tokenize(vocab, text, len(text), tokens, 256, special, True)
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 512, 64, 64, 2
    params.n_threads = params.n_threads_batch = 1
    params.embeddings = lib.llama_model_n_embd(model.pointer) > 0 and model_pools(lib, model)
    context = lib.llama_init_from_model(model.pointer, params)
    if not context:
        raise ModelLoadFailed(f"no context: {LOG.reason()}")
    count = lib.llama_tokenize(vocab, b"the bees", 8, tokens, 60, True, True)
    if count <= 0:
        tokens[0], count = 0, 1
    for index in range(count):
        if not 0 <= tokens[index] < size:
            raise ModelLoadFailed(f"token {tokens[index]} is not in a vocabulary of {size}")
    batch = lib.llama_batch_get_one(tokens, count)
    code = lib.llama_decode(context, batch)
    if code:
        raise ModelLoadFailed(f"decode gave {code}")
    if lib.llama_pooling_type(context) == 0:
        row = lib.llama_get_logits_ith(context, -1)
        if row:
            sum(row[index] for index in range(size))
    lib.llama_free(context)


def model_pools(lib: Any, model: Any) -> bool:
    """Whether the file says how its vectors are pooled."""
    out = ctypes.create_string_buffer(64)
    arch = ctypes.create_string_buffer(64)
    lib.llama_model_meta_val_str(model.pointer, b"general.architecture", arch, 64)
    key = arch.value + b".pooling_type"
    return lib.llama_model_meta_val_str(model.pointer, key, out, 64) > 0


if __name__ == "__main__":
    main()
