"""The gate before every route: who calls, whether they may, and how much they still may.

Owns wrong keys being slowed, limits by key, and the headers that tell of them. The keys are
`rbee.access`'s, what each route needs is `scopes`'. No key is ever logged, only its fingerprint.
"""

from __future__ import annotations

import hmac
import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from rbee.access.brakes import Brakes
from rbee.access.keys import digest_of, looks_like_key
from rbee.access.rates import Bucket
from rbee.access.usage import app_of
from rbee.daemons.addresses import network_of, plain
from rbee.daemons.base import TOLD, Handler, is_loopback
from rbee.daemons.queen.callers import Caller, Kind, present
from rbee.daemons.queen.scopes import Need, may, need_of, refusal
from rbee.errors import InvalidApiKey, MissingApiKey, RateLimited
from rbee.protocol.access import Scope

if TYPE_CHECKING:
    from rbee.access.keys import Key, Keys
    from rbee.clock import Clock
    from rbee.settings import QueenSettings

log = logging.getLogger("rbee.queen")
PROVEN = 4096
"""Pairs of address and key remembered, which a brake on that address does not stop."""
_WHERE = (
    "Send it as `Authorization: Bearer rbee_…` or `x-api-key`; rbee's own commands take it from \
`queen.api_key` or RBEE_API_KEY. `rbee key list` shows the keys there are."
)
Owns = Callable[[Request, Caller], Awaitable[None]]


class Gate:
    """`owns` raises NotFound when the caller has nothing to do with the job that is named."""

    def __init__(
        self,
        *,
        keys: Keys,
        owner: str,
        settings: Callable[[], QueenSettings],
        clock: Clock,
        owns: Owns,
    ) -> None:
        self._keys = keys
        self._owner = owner.encode()
        self._settings = settings
        self._clock = clock
        self._owns = owns
        self._brakes = Brakes()
        self._proven: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._requests: dict[str, Bucket] = {}
        self._tokens: dict[str, Bucket] = {}

    def guarded(self, method: str, path: str, handler: Handler) -> Handler:
        """The handler, for those who may."""
        need = need_of(method, path)
        if need in (Need.OPEN, Need.INTERNAL):
            return handler
        about_job = "{job_id}" in path
        counted = method == "POST" and need is Need.INFER

        async def entered(request: Request) -> Response:
            caller = self.admit(request, need)
            present.set(caller)
            if about_job and not caller.admin:
                await self._owns(request, caller)
            key = caller.key
            if key is None or (key.requests_per_minute or key.tokens_per_minute) is None:
                return await handler(request)
            state = request.scope.setdefault("state", {})
            try:
                if counted:
                    self._charge(key)
                return await handler(request)
            finally:
                state[TOLD] = self._told(key)

        return entered

    def spend(self, key: str, tokens: int) -> None:
        """What an answer took, once it has ended; `key` is a name."""
        bucket = self._tokens.get(key)
        if bucket is not None:
            bucket.take(tokens, self._clock.monotonic())

    def admit(self, request: Request, need: Need) -> Caller:
        """Raises MissingApiKey, InvalidApiKey, Forbidden, RateLimited."""
        host = plain(request.client.host) if request.client is not None else ""
        local = is_loopback(host)
        app = app_of(request.headers.get("user-agent", "")[:200])
        given = _presented(request)
        caller = self._known(given, host, local=local, app=app)
        if caller is None:
            if not local or self._settings().require_key:
                raise MissingApiKey("a key is needed here and none was sent", action=_WHERE)
            caller = Caller(Kind.LOCAL, app)
        if not may(caller, need):
            raise refusal(caller, f"{request.method} {request.url.path[:120]}")
        return caller

    def _known(self, given: str | None, host: str, *, local: bool, app: str) -> Caller | None:
        """None: it has shown nothing that is meant to be a key."""
        if given is None:
            return None
        if local and hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._owner):
            return Caller(Kind.OWNER, app, admin=True)
        lenient = local and not self._settings().require_key
        if lenient and not looks_like_key(given):
            return None
        key = self._checked(given, network_of(host))
        return Caller(Kind.KEY, app, key, admin=Scope.ADMIN in key.scopes)

    def _checked(self, given: str, address: str) -> Key:
        now, digest = self._clock.monotonic(), digest_of(given)
        wait = self._brakes.wait(address, now)
        if wait > 0 and (address, digest) not in self._proven:
            raise RateLimited(
                f"too many wrong keys came from this address: none is looked at for {wait:.0f} s",
                action=f"Wait. {_WHERE}",
                retry_after=math.ceil(wait),
            )
        key = self._keys.find(given)
        if key is not None and not key.expired(self._clock.utc()):
            self._proven[(address, digest)] = None
            while len(self._proven) > PROVEN:
                self._proven.popitem(last=False)
            return key
        count = self._brakes.wrong(address, now)
        why = "expired" if key is not None else "unknown"
        log.warning(
            "refused a key that is %s", why,
            extra={"fingerprint": digest[:6], "address": address, "times": count},
        )  # fmt: skip
        if key is not None:
            raise InvalidApiKey(
                f"the key {key.name} ({key.fingerprint}) has expired",
                action=f"Renew it where the queen runs: rbee key rotate {key.name}",
            )
        raise InvalidApiKey("this key is not known here", action=_WHERE)

    def _charge(self, key: Key) -> None:
        now = self._clock.monotonic()
        requests = _bucket(self._requests, key.name, key.requests_per_minute, now)
        tokens = _bucket(self._tokens, key.name, key.tokens_per_minute, now)
        for what, bucket in (("requests", requests), ("tokens", tokens)):
            if bucket is not None and (wait := bucket.wait(now)) > 0:
                raise RateLimited(
                    f"the key {key.name} may use {bucket.limit} {what} a minute, and has",
                    action=f"Wait {math.ceil(wait)} s, or give the key another limit.",
                    retry_after=math.ceil(wait),
                    limit=bucket.limit,
                    of=what,
                )
        if requests is not None:
            requests.take(1, now)

    def _told(self, key: Key) -> list[tuple[bytes, bytes]]:
        """Headers by the names that OpenAI's clients read."""
        now, headers = self._clock.monotonic(), dict[str, str]()
        for what, kept, limit in (
            ("requests", self._requests, key.requests_per_minute),
            ("tokens", self._tokens, key.tokens_per_minute),
        ):
            bucket = _bucket(kept, key.name, limit, now)
            if bucket is not None:
                full = bucket.until_full(now)
                headers[f"x-ratelimit-limit-{what}"] = str(bucket.limit)
                headers[f"x-ratelimit-remaining-{what}"] = str(bucket.left)
                headers[f"x-ratelimit-reset-{what}"] = f"{full:.3f}s"
        return [(name.encode(), value.encode()) for name, value in headers.items()]


def _bucket(kept: dict[str, Bucket], name: str, limit: int | None, now: float) -> Bucket | None:
    """Of a key; a full one when its limit was never used, or is another now."""
    if limit is None:
        kept.pop(name, None)
        return None
    bucket = kept.get(name)
    if bucket is None or bucket.limit != limit:
        bucket = kept[name] = Bucket.full(limit, now)
    return bucket


def _presented(request: Request) -> str | None:
    """What was sent as a key: `Authorization: Bearer …`, or Anthropic's `x-api-key`."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()[:512]
    return request.headers.get("x-api-key", "").strip()[:512] or None
