"""A backend without a model: it answers with the words it was given. For tests, demos and checks.

Deterministic, needs nothing, never hides what it is: its models are `echo`, `echo-slow` (loading
takes some seconds), `echo-stuck` (loading stops at 40 %) and `echo-broken` (loading fails). The
answer is the last user message's words, one piece per word; a token is a word. Directives at the
start of that message steer it:

    @delay=50        wait so many milliseconds before each piece
    @repeat=100      say the words so many times
    @hang_after=3    after so many pieces make no more until cancelled
    @exit_after=3    after so many pieces end the process at once, with exit code 3
    @fail_after=3    after so many pieces fail with INTERNAL_ERROR
    @break_after=3   after so many pieces fail with DEVICE_FAILED, which ends the worker

Pieces are counted from the beginning of the answer. One that another run began goes on behind what
was said; what is to happen after so many pieces happens in the run that makes the last of them, so
not again in a run that begins there. While it waits for `@delay` it tells each second that it is
alive; when it hangs it tells nothing.

A piece is a word with the space after it. `stop` strings cut the answer; it ends with `length` when
`max_tokens` pieces or the context are used up. Every word is certain: its log-probability is 0. A
grammar or a schema is refused.

The vector of a text counts its words, each at one of 64 places that a hash of it chooses: texts
with words in common lie near each other. `@delay` and what is to happen after 0 pieces hold for
texts too.
"""

from __future__ import annotations

from pathlib import Path

from rbee.backend_api import Backend, BackendInfo, ModelFile, Support

_HERE = Path(__file__).resolve().parent


def _create() -> Backend:
    from .backend import EchoBackend

    return EchoBackend()


def models() -> list[ModelFile]:
    """The models; `load_seconds` in the metadata is how long loading takes."""
    seconds = {"echo": 0.0, "echo-slow": 4.0, "echo-stuck": 0.0, "echo-broken": 0.0}
    return [
        ModelFile(name, _HERE / "backend.py", "echo", {"hidden": True, "load_seconds": duration})
        for name, duration in seconds.items()
    ]


INFO = BackendInfo(
    name="echo",
    formats=("echo",),
    capabilities=("text-gen", "embedding"),
    probe=lambda: Support(True, ("cpu",)),
    create=_create,
    max_slots=8,
    continues=True,
    models=models,
)
