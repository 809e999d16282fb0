"""Trouble: why the screens have no queen, in words, and what the person in front of them can do.

Pure. The link says what happened; how it is shown belongs to the widgets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rbee.errors import RbeeError
from rbee.tui.store import ColonyStore, Link

REFUSALS = frozenset({"MISSING_API_KEY", "INVALID_API_KEY", "FORBIDDEN", "RATE_LIMITED"})
NOT_OURS = frozenset({"VERSION_MISMATCH", "BAD_GATEWAY", "VALIDATION_ERROR", "NOT_FOUND"})
"""Codes by which an answer says that what answers cannot be used by these screens."""
_KEYS = {
    "MISSING_API_KEY": "Set RBEE_API_KEY or `queen.api_key` and start rbee again.",
    "INVALID_API_KEY": "Put a valid key into RBEE_API_KEY or `queen.api_key`; start rbee again.",
}


@dataclass(frozen=True)
class Trouble:
    """`head`: two or three words; `what`: one sentence; `action`: what to do."""

    head: str
    what: str
    action: str


def link_for(error: RbeeError | None) -> Link:
    """How the way to the queen stands after this."""
    if error is None:
        return Link.LOST
    if error.code in REFUSALS or error.code in NOT_OURS:
        return Link.REFUSED
    return Link.FAILED if error.code in ("PORT_TAKEN", "BIND_REFUSED") else Link.LOST


def trouble(store: ColonyStore) -> Trouble | None:
    """What stands between the screens and the queen; None while all is well."""
    if store.link not in (Link.LOST, Link.FAILED, Link.REFUSED):
        return None
    error = store.error
    what = store.message or "the queen does not answer"
    if error is not None and error.details.get("away"):
        return Trouble("queen away", what, error.action)
    if store.link is Link.LOST:
        action = "Nothing to do: she is brought back by herself."
        if error is not None and error.code not in ("QUEEN_UNREACHABLE", "CONNECTION_TIMEOUT"):
            action = error.action
        return Trouble("queen restarting", what, action)
    action = error.action if error is not None else "See `rbee queen logs`."
    if store.link is Link.FAILED or error is None:
        return Trouble("queen not running", what, action)
    if error.code in REFUSALS:
        return Trouble("queen refuses", what, _KEYS.get(error.code, action))
    head = "other version" if error.code == "VERSION_MISMATCH" else "no queen there"
    return Trouble(head, what, action)


def again_words(store: ColonyStore) -> str:
    """`next try in 4 s`, `trying`, or nothing where nobody tries."""
    if store.retry_at is None:
        return ""
    left = math.ceil(store.retry_at - store.clock())
    return f"next try in {left} s" if left > 0 else "trying now"
