"""One request to a process of this machine, by the standard library alone.

For where a client of its own would take longer to import, or more memory, than all it does. Blocks.
"""

from __future__ import annotations

import contextlib
import http.client
from urllib.parse import urlsplit

REPLY_LIMIT = 1 << 20


def ask(
    url: str, *, token: str, body: bytes | None = None, limit: float = 2.0
) -> tuple[int, bytes]:
    """Status and content of a POST, or of a GET without a body. `limit`: seconds of each wait.

    Raises OSError (TimeoutError among them) and http.client.HTTPException.
    """
    to = urlsplit(url)
    line = http.client.HTTPConnection(to.hostname or "", to.port, timeout=limit)
    with contextlib.closing(line):
        method = "GET" if body is None else "POST"
        line.request(method, to.path, body, {"Authorization": f"Bearer {token}"})
        reply = line.getresponse()
        return reply.status, reply.read(REPLY_LIMIT)
