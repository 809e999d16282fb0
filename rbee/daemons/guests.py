"""How many connections other machines may hold open: so many each, so many in all.

Pure counts. This machine itself is not counted; for whoever has used it up the next connection is
closed at once, and what runs goes on.
"""

from __future__ import annotations

from rbee.daemons.addresses import is_loopback, network_of, plain

EACH = 256
"""Connections of one address (of one network of 64 bits with IPv6)."""
ALL = 8192
SHARE = 2
"""At most one in so many of the files that this process may have open is a guest's."""
HOME = ""
"""As whom this machine's own are let in."""


class Guests:
    """Who is there. `files`: how many this process may have open."""

    def __init__(self, files: int) -> None:
        self._most = max(1, min(ALL, files // SHARE))
        self._here: dict[str, int] = {}
        self._all = 0

    def enter(self, host: str) -> str | None:
        """As whom it is counted, for `leave`; None: there are too many."""
        if is_loopback(plain(host)):
            return HOME
        name = network_of(host)
        count = self._here.get(name, 0)
        if count >= EACH or self._all >= self._most:
            return None
        self._here[name] = count + 1
        self._all += 1
        return name

    def leave(self, name: str) -> None:
        """One of them has gone."""
        if name == HOME:
            return
        self._all -= 1
        self._here[name] -= 1
        if not self._here[name]:
            del self._here[name]
