"""Tells the hive how the worker is: once when its HTTP is up, then by heartbeats.

Owns the way to the hive. A post that fails is logged and made up for by the next; nothing here ever
waits long or holds up an answer. Reads the runner, never changes it.
"""

from __future__ import annotations

import logging
import ssl
import time

import anyio
import httpx

from rbee.daemons.worker.runner import Runner
from rbee.protocol.base import Wire, encode
from rbee.protocol.workers import WorkerReady, WorkerState

log = logging.getLogger("rbee.worker")
GAP_SECONDS = 0.2
"""Between beats that tell of progress or slots only; a change of state goes out at once."""
_TIMEOUT = httpx.Timeout(2.0, connect=1.0)
_RETRY_SECONDS = 0.2


class Reporter:
    """Use as an async context manager; `run` until cancelled."""

    def __init__(
        self, runner: Runner, ready: WorkerReady, *, callback_url: str, token: str, beat: float
    ) -> None:
        self._runner = runner
        self._pause = beat
        self._ready = ready
        self._announced = False
        self._told: WorkerState | None = None
        self._sent_at = 0.0
        self._trouble = ""
        self._http = httpx.AsyncClient(
            base_url=callback_url.rstrip("/"),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            timeout=_TIMEOUT,
            trust_env=False,
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # never used: see rbee.client
        )

    async def announce(self) -> bool:
        """The ready callback, one try; whether it was delivered."""
        self._announced = self._announced or await self._post("/v1/workers/ready", self._ready)
        return self._announced

    async def run(self) -> None:
        """Beat every `beat` seconds and at changes."""
        while True:
            changed = self._runner.changed
            await self._beat()
            with anyio.move_on_after(self._pause):
                await changed.wait()
            await self._hold()

    async def deliver(self, *, limit: float) -> bool:
        """Try until the present state was delivered, at most `limit` seconds."""
        deadline = time.monotonic() + limit
        with anyio.move_on_after(limit):
            while time.monotonic() < deadline:
                if await self._beat():
                    return True
                await anyio.sleep(_RETRY_SECONDS)
        return False

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _hold(self) -> None:
        """Keep the gap since the last beat, unless the state has changed."""
        while self._runner.state is self._told:
            rest = self._sent_at + GAP_SECONDS - time.monotonic()
            if rest <= 0:
                return
            changed = self._runner.changed
            with anyio.move_on_after(rest):
                await changed.wait()

    async def _beat(self) -> bool:
        """One try; a hive that has not taken the ready callback is given that first."""
        beat = self._runner.heartbeat()
        self._told, self._sent_at = beat.state, time.monotonic()
        if not await self.announce():
            return False
        return await self._post("/v1/worker-heartbeat", beat)

    async def _post(self, path: str, body: Wire) -> bool:
        try:
            reply = await self._http.post(path, content=encode(body))
            trouble = "" if reply.is_success else f"status {reply.status_code}"
        except httpx.HTTPError as exc:
            trouble = type(exc).__name__
        if trouble and trouble != self._trouble:
            log.warning("the hive does not take %s: %s", path, trouble)
        self._trouble = trouble
        return not trouble
