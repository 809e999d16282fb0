"""What callers say beside the body: query parameters and headers, checked. Knows no route."""

from __future__ import annotations

import re

from starlette.requests import Request

from rbee.daemons.queen.callers import present
from rbee.errors import ValidationFailed

CLIENT_HEADER = "X-Rbee-Client"
_CLIENT = re.compile(r"[A-Za-z0-9._@-]{1,64}")


def number(request: Request, name: str, default: int, low: int, high: int) -> int:
    """An integer parameter. Raises ValidationFailed."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not is_number(text) or not low <= int(text) <= high:
        raise ValidationFailed(
            f"{name}: must be a number from {low} to {high}",
            field=name,
            constraint=f"{low}..{high}",
        )
    return int(text)


def flag(request: Request, name: str) -> bool | None:
    """`true` or `1`, `false` or `0`, None when it was not given. Raises ValidationFailed."""
    text = request.query_params.get(name)
    if text is None:
        return None
    if text not in ("true", "false", "1", "0"):
        raise ValidationFailed(
            f"{name}: must be true or false", field=name, constraint="true|false"
        )
    return text in ("true", "1")


def is_number(text: str) -> bool:
    """ASCII digits that fit everywhere; str.isdigit alone takes `²`, which int refuses."""
    return len(text) <= 16 and text.isascii() and text.isdigit()


def client_of(request: Request, default: str) -> str:
    """Who the caller says it is, for turns, or whose key it has. Raises ValidationFailed."""
    caller = present.get()
    if caller is not None and caller.client is not None:
        return caller.client
    given = request.headers.get(CLIENT_HEADER)
    if given is None:
        return default
    if not _CLIENT.fullmatch(given):
        raise ValidationFailed(
            f"{CLIENT_HEADER}: {given[:80]!r} is not a name of 1 to 64 letters, digits and . _ @ -",
            field=CLIENT_HEADER,
            constraint="[A-Za-z0-9._@-]{1,64}",
        )
    return given


def correlation_of(request: Request) -> str:
    """What the door has given the request."""
    return str(request.scope.get("state", {}).get("correlation_id", ""))
