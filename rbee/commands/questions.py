"""A yes that is asked for on the terminal, before something that cannot be taken back.

Owns the question, on stderr; what it is about is the caller's.
"""

from __future__ import annotations

import sys

from rbee.errors import InvalidRequest
from rbee.narration import printable


def may_ask() -> bool:
    """Whether somebody sits there: both where the question is shown and where it is answered."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def confirmed(question: str) -> bool:
    """Ask; anything but a yes is a no. Ctrl+C is KeyboardInterrupt."""
    sys.stderr.write(f"{printable(question)} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def need_yes(what: str) -> None:
    """Raises InvalidRequest where nobody can be asked."""
    if not may_ask():
        raise InvalidRequest(
            f"{printable(what)} needs a yes, and there is no terminal to ask on",
            action="Add --yes.",
        )
