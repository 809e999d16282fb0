"""Keys and use of the queen as her routes tell them. Never holds a key itself but in `MadeKey`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, field

from rbee.protocol.base import Request, Wire

KEY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,47}$(?!\n)"
"""Python's `$` is also before a last line break."""
YEARS = 10 * 365 * 86400


class Scope(StrEnum):
    """What a key allows: `infer` asks models; `admin` does everything else, too."""

    INFER = "infer"
    ADMIN = "admin"


Name = Annotated[str, Meta(pattern=KEY_NAME)]
PerMinute = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Scopes = Annotated[list[Scope], Meta(min_length=1, max_length=2)]


class NewKey(Request, frozen=True, kw_only=True):
    """POST /v1/keys"""

    name: Name
    scopes: Scopes = field(default_factory=lambda: [Scope.INFER])
    expires_in: Annotated[float, Meta(gt=0, le=YEARS)] | None = None
    """Seconds; None: it does not expire."""
    requests_per_minute: PerMinute | None = None
    tokens_per_minute: PerMinute | None = None


class KeyInfo(Wire, frozen=True, kw_only=True):
    """A key without the key. Times are UTC seconds."""

    name: str
    fingerprint: str
    """The first 6 hex digits of its SHA-256, by which logs name it."""
    scopes: list[Scope]
    created_at: float
    expires_at: float | None = None
    expired: bool = False
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class MadeKey(Wire, frozen=True, kw_only=True):
    """A key that was made or renewed: the only reply that ever has one."""

    key: str
    info: KeyInfo


class UsageRow(Wire, frozen=True, kw_only=True):
    """What one key did with one app and one model. `key` is empty for callers without one."""

    key: str
    app: str
    model: str
    requests: int
    tokens_in: int
    tokens_out: int
    first_day: str
    last_day: str
    """Days in UTC, `2026-01-31`."""


class UsageReport(Wire, frozen=True, kw_only=True):
    """GET /v1/usage. `since`: the first day that is told of, in UTC."""

    since: str
    rows: list[UsageRow]
