"""The gate of `rbee web`: who may come in.

A link works once: its token is exchanged for a cookie that only the browser which used it has. A
page of another site is kept out by the names it would have to use (Host, Origin). Pure but for the
random numbers; knows nothing of HTTP beyond those words.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import deque

MOST_BROWSERS = 8
"""Browsers that are let in at a time; the next link lets the oldest out."""
COOKIE = "rbee_web"
_TOKEN_BYTES = 32
_LIMIT = 128
_HOST = re.compile(r"(?P<name>127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.ASCII)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret[:_LIMIT].encode("utf-8", "replace")).digest()


class Gate:
    """Tokens, cookies and names of one server. Keeps digests of secrets only."""

    def __init__(self) -> None:
        self.prefix = f"/{secrets.token_urlsafe(12)}/"
        """Where the cookie is sent. Cookies know no ports, but they know paths: another web server
        on this machine is not sent ours, because nobody tells it this one."""
        self._token: bytes | None = None
        self._browsers: deque[bytes] = deque(maxlen=MOST_BROWSERS)

    def new_token(self) -> str:
        """For one link; the one before, if unused, opens nothing any more."""
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._token = _digest(token)
        return token

    def redeem(self, token: str) -> str | None:
        """The cookie's value for an unused token, which then is used; None for any other."""
        expected = self._token or secrets.token_bytes(32)
        if not hmac.compare_digest(_digest(token), expected) or self._token is None:
            return None
        self._token = None
        cookie = secrets.token_urlsafe(_TOKEN_BYTES)
        self._browsers.append(_digest(cookie))
        return cookie

    def knows(self, cookie: str | None) -> bool:
        """Whether a browser with this cookie was let in."""
        given = _digest(cookie or "")
        return any(hmac.compare_digest(given, known) for known in self._browsers)


def is_own_name(host: str) -> bool:
    """Whether a Host header names this machine. Any port: `ssh -L` may have changed it, and a page
    that rebinds a name of its own to 127.0.0.1 still sends that name."""
    return _HOST.fullmatch(host) is not None


def is_own_page(origin: str | None, host: str) -> bool:
    """Whether an Origin header is that of a page which came from the very same address."""
    return origin == f"http://{host}"
