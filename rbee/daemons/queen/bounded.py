"""Replies of hives within bounds: one that never ends must not fill the queen's memory.

Owns the bound alone. A stream has none: whoever asks for one (`STREAM`) keeps nothing of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import httpx

LARGEST = 64 << 20
"""Bytes of a reply; the largest that is meant are 8 MiB of a model."""
STREAM = {"rbee.stream": True}
"""Extensions of a request whose reply may go on for ever."""


class Bounded(httpx.AsyncBaseTransport):
    """Another transport's replies. Raises httpx.RemoteProtocolError for more than `largest` bytes,
    and for what would only be so many once it is unpacked."""

    def __init__(self, inner: httpx.AsyncBaseTransport, largest: int = LARGEST) -> None:
        self._inner = inner
        self._largest = largest

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx."""
        reply = await self._inner.handle_async_request(request)
        if reply.headers.get("content-encoding", "identity").lower() != "identity":
            await reply.aclose()
            raise httpx.RemoteProtocolError("a reply that was packed, which was not asked for")
        if "rbee.stream" in request.extensions and reply.status_code < 400:
            return reply
        inner = cast("httpx.AsyncByteStream", reply.stream)
        counted = _Counted(inner, self._largest)
        return httpx.Response(
            reply.status_code, headers=reply.headers, stream=counted, extensions=reply.extensions
        )

    async def aclose(self) -> None:
        """See httpx."""
        await self._inner.aclose()


class _Counted(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, most: int) -> None:
        self._inner = inner
        self._most = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for piece in self._inner:
            seen += len(piece)
            if seen > self._most:
                raise httpx.RemoteProtocolError(f"a reply of more than {self._most} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()
