"""One file over HTTP: begun, cut, taken up again, compared, and put among the whole ones.

Owns the requests, which faults are tried again and when, and what an answer must look like. Never
sends a secret, and never tells more of an address than its host. What is on disk is
transfer_partial's.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from rbee.clock import Clock
from rbee.errors import DownloadFailed
from rbee.models.transfer_pace import Bandwidth, Limits
from rbee.models.transfer_partial import Partial
from rbee.protocol.models import CatalogueFile, PlannedFile

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
BLOCK = 512 << 10
"""Bytes that are written and hashed at a time."""
_FLUSH_AFTER = 0.5
_ENOUGH = 64 << 10
"""So much further than ever before, and the tries are counted anew."""
_AGAIN = frozenset({408, 416, 425, 429})
_EXPIRED = frozenset({401, 403, 410})
_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(?:(\d{1,15})|\*)")
Tell = Callable[["Transfer", str], None]


class Failed(Exception):
    """A try has failed; another may do. `after`: seconds that the server asked to wait."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.message = message
        self.after = after


class Transfer:
    """Of one file. `tell` hears of every block and of every failed try, with a sentence or ''."""

    def __init__(
        self, kept: Partial, *, client: httpx.AsyncClient, limits: Limits, bandwidth: Bandwidth,
        threads: anyio.CapacityLimiter, clock: Clock, tell: Tell,
    ) -> None:  # fmt: skip
        self.kept = kept
        self.planned: PlannedFile = kept.planned
        self.attempt = 1
        self._client = client
        self._limits = limits
        self._bandwidth = bandwidth
        self._threads = threads
        self._clock = clock
        self._tell = tell
        self._host = urlsplit(self.planned.url).hostname or "the queen"

    async def run(self) -> CatalogueFile:
        """Return when the file is whole and right.

        Raises DownloadFailed (`attempts`, `expired`) and InsufficientDisk; what is right so far is
        kept.
        """
        try:
            wrong = 0
            while True:
                await self._rehash()
                await self._complete()
                difference = self.kept.difference()
                if difference is None:
                    return await self._thread(self.kept.finish)
                await self._thread(self.kept.restart)
                wrong += 1
                if wrong > 1:
                    raise self._wrong(*difference)
                self._tell(self, f"{self.planned.name} came with wrong bytes: it is fetched anew")
        finally:
            self.kept.close()

    async def _rehash(self) -> None:
        if self.kept.have:
            self._tell(self, f"{self.planned.name}: what is here already is checked")
        while not await self._thread(self.kept.hash_more):
            self._tell(self, "")

    async def _complete(self) -> None:
        if self.planned.content is not None:
            await self._thread(self.kept.restart)
            await self._write([self.planned.content])
            return
        tries, furthest = 0, self.kept.have
        while not self.kept.complete:
            tries += 1
            self.attempt = max(self.attempt, tries)
            try:
                await self._try()
            except Failed as failure:
                if self.kept.have >= furthest + _ENOUGH:
                    tries = 1
                furthest = max(furthest, self.kept.have)
                await self._pause(tries, failure)

    async def _pause(self, tries: int, failure: Failed) -> None:
        if tries >= self._limits.tries:
            raise DownloadFailed(
                f"{self.planned.name} could not be fetched from {self._host}: {failure.message}"
                f" ({tries} tries, {_of(self.kept)} are here)",
                attempts=tries,
                expired=False,
                host=self._host,
            )
        wait = self._limits.first_pause * 2 ** (tries - 1)
        wait = min(max(wait, failure.after), self._limits.longest_wait)
        again = f"try {tries + 1} of {self._limits.tries} in {wait:.1f} s"
        self._tell(self, f"{self.planned.name}: {failure.message}; {again}")
        await anyio.sleep(wait)

    async def _try(self) -> None:
        import httpx

        headers = {"accept-encoding": "identity"}
        if self.kept.have:
            headers["range"] = f"bytes={self.kept.have}-"
            if self.kept.etag:
                headers["if-range"] = self.kept.etag
        try:
            async with self._client.stream("GET", self.planned.url, headers=headers) as reply:
                self._host = reply.url.host or self._host
                await self._begin(reply)
                await self._take(reply)
        except (
            httpx.TooManyRedirects, httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError,
        ) as exc:  # fmt: skip
            raise self._final("it leads on and on, or to no http address") from exc
        except httpx.ConnectTimeout as exc:
            raise Failed(f"{self._host} does not answer") from exc
        except httpx.TimeoutException as exc:
            raise Failed(f"nothing came for {self._limits.stall:g} s") from exc
        except httpx.ConnectError as exc:
            raise Failed(f"no connection to {self._host}") from exc
        except httpx.HTTPError as exc:
            raise Failed("the connection was cut") from exc

    async def _begin(self, reply: httpx.Response) -> None:
        """Hold the answer against what was asked. After it the next byte is that of `have`."""
        await self._check_status(reply)
        etag = reply.headers.get("etag", "")
        etag = etag if etag.startswith('"') and etag.isascii() and len(etag) <= 1024 else None
        if reply.headers.get("content-encoding", "identity").lower() != "identity":
            raise Failed(f"{self._host} sends it compressed, which was not asked for")
        if reply.status_code == 206:
            total = self._check_range(reply.headers.get("content-range", ""))
            if etag is not None and self.kept.etag is not None and etag != self.kept.etag:
                await self._thread(self.kept.restart)
                raise Failed("its content has changed meanwhile: it is begun anew")
        else:
            length = reply.headers.get("content-length", "")
            total = int(length) if length.isdecimal() and len(length) < 16 else None
        if total is not None and total != self.planned.size:
            raise self._final(f"it has {total} bytes there, {self.planned.size} were expected")
        if reply.status_code != 206 and self.kept.have:
            await self._thread(self.kept.restart)
        await self._thread(self.kept.mark, etag)

    def _check_range(self, text: str) -> int | None:
        found = _RANGE.fullmatch(text)
        if found is None or int(found[1]) != self.kept.have:
            raise Failed(f"{self._host} sends another part than was asked for")
        return int(found[3]) if found[3] else None

    async def _check_status(self, reply: httpx.Response) -> None:
        status = reply.status_code
        if status == 200 or (status == 206 and self.kept.have):
            return
        told = f"{self._host} answers {status}"
        if status == 416:
            await self._thread(self.kept.restart)
            raise Failed(f"{told}: it is begun anew")
        if status in _AGAIN or status >= 500:
            limited = status in (429, 503)
            after = self._asked_wait(reply.headers.get("retry-after", "")) if limited else 0.0
            raise Failed(told, after)
        raise self._final(told, expired=status in _EXPIRED)

    def _asked_wait(self, text: str) -> float:
        text = text.strip()[:64]
        if text.isascii() and text.isdigit():
            return float(text)
        try:
            at = email.utils.parsedate_to_datetime(text).timestamp()
        except (ValueError, TypeError, OverflowError):
            return 0.0
        return at - self._clock.utc()

    async def _take(self, reply: httpx.Response) -> None:
        blocks: list[bytes] = []
        waiting, coming = 0, self.kept.have
        flushed = self._clock.monotonic()
        try:
            async for data in reply.aiter_raw():
                coming += len(data)
                if coming > self.planned.size:
                    raise self._final(f"more than the {self.planned.size} bytes that were expected")
                blocks.append(data)
                waiting += len(data)
                await self._bandwidth.take(len(data))
                if waiting >= BLOCK or self._clock.monotonic() - flushed > _FLUSH_AFTER:
                    due, blocks, waiting = blocks, [], 0
                    await self._write(due)
                    flushed = self._clock.monotonic()
        except Exception:
            await self._write(blocks)
            raise
        await self._write(blocks)
        if not self.kept.complete:
            raise Failed(f"it ended after {_of(self.kept)}")

    async def _write(self, blocks: list[bytes]) -> None:
        if blocks:
            await self._thread(self.kept.write, blocks)
            self._tell(self, "")

    def _final(self, why: str, *, expired: bool = False) -> DownloadFailed:
        hint = "Ask for it again: its address has to be made anew." if expired else None
        return DownloadFailed(
            f"{self.planned.name} cannot be fetched from {self._host}: {why}",
            action=hint,
            attempts=self.attempt,
            expired=expired,
            host=self._host,
        )

    def _wrong(self, expected: str, got: str) -> DownloadFailed:
        return DownloadFailed(
            f"{self.planned.name} came twice with wrong bytes from {self._host}: its hash is {got},"
            f" not {expected}",
            action="Ask for it again later; the file of the hub, or what lies between, is damaged.",
            attempts=2,
            expired=False,
            expected=expected,
            got=got,
            host=self._host,
        )

    def _thread(self, call: Callable[..., T], *args: object) -> Awaitable[T]:
        return anyio.to_thread.run_sync(partial(call, *args), limiter=self._threads)


def _of(kept: Partial) -> str:
    return f"{kept.have / 1e6:,.1f} of {kept.planned.size / 1e6:,.1f} MB"
