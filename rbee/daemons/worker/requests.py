"""From the wire's request to the backend's: bounds are checked here, once.

The queen has validated what a user sent; this keeps any caller's mistake out of native code.
"""

from __future__ import annotations

from rbee.backend_api import Generation
from rbee.errors import ValidationFailed
from rbee.protocol.workers import Execute

_BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("temperature", 0.0, 5.0),
    ("top_p", 0.0, 1.0),
    ("top_k", 0, 100_000),
    ("min_p", 0.0, 1.0),
    ("repetition_penalty", 0.01, 10.0),
    ("max_tokens", 1, 1 << 31),
    ("seed", 0, 0xFFFFFFFF),
)
_MAX_STOPS = 16


def request_of(request: Execute) -> Generation:
    """The request as the backend wants it. Raises ValidationFailed naming the field."""
    if (request.prompt is None) == (request.messages is None):
        raise _bad("prompt", "give either prompt or messages")
    if not 1 <= len(request.request_id) <= 128:
        raise _bad("request_id", "1 to 128 characters")
    for name, low, high in _BOUNDS:
        value = getattr(request, name)
        if value is not None and not low <= value <= high:  # NaN is outside too
            raise _bad(name, f"{low} to {high}")
    if len(request.stop) > _MAX_STOPS:
        raise _bad("stop", f"at most {_MAX_STOPS}")
    for message in request.messages or ():
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise _bad("messages", "each has a role and a content, both strings")
    if request.messages is not None and not request.messages:
        raise _bad("messages", "at least one")
    return Generation(
        prompt=request.prompt,
        messages=tuple(request.messages or ()),
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        seed=request.seed,
        stop=tuple(request.stop),
    )


def _bad(field: str, constraint: str) -> ValidationFailed:
    return ValidationFailed(f"{field}: {constraint}", field=field, constraint=constraint)
