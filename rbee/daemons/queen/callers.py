"""Who a request comes from. Owns the answer for the request in progress; never finds it out."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbee.access.keys import Key

BY_KEY = "key:"
"""How the clients of jobs begin that were asked for with a key."""


class Kind(StrEnum):
    """How a caller is known."""

    OWNER = "owner"
    """By the token in the owner's state folder: the `rbee` command."""
    KEY = "key"
    LOCAL = "local"
    """Not at all, but it is a program of this machine."""


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller. `app` is the name out of its User-Agent."""

    kind: Kind
    app: str
    key: Key | None = None
    admin: bool = False

    @property
    def name(self) -> str:
        """Of its key; empty without one."""
        return self.key.name if self.key is not None else ""

    @property
    def client(self) -> str | None:
        """As whom its jobs take turns; no header can spell it. None: it may say so itself."""
        return f"{BY_KEY}{self.key.name}" if self.key is not None and not self.admin else None


present: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""Of the request that is being answered here; None outside of one."""
