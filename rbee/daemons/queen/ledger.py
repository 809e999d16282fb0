"""What each job used, told to the counts and to its key's limit when it has ended.

Owns who asked for the jobs that run; one from before a restart is its client's, of an unknown app.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

from rbee.daemons.queen.callers import BY_KEY, Caller, present
from rbee.errors import RbeeError
from rbee.protocol.operations import ModelWork

if TYPE_CHECKING:
    from rbee.access.usage import Usage
    from rbee.clock import Clock
    from rbee.core.jobs import Job
    from rbee.daemons.queen.gate import Gate

log = logging.getLogger("rbee.queen")
FLUSH_EVERY = 10.0


class Ledger:
    """`gate` hears of the tokens that keys with a limit have used."""

    def __init__(self, usage: Usage, gate: Gate, clock: Clock) -> None:
        self.usage = usage
        self._gate = gate
        self._clock = clock
        self._callers: dict[str, Caller] = {}

    def opened(self, job: Job) -> None:
        """The request in progress asks for this job."""
        caller = present.get()
        if caller is not None and isinstance(job.request, ModelWork):
            self._callers[job.job_id] = caller

    def withdrawn(self, job: Job) -> None:
        """It was refused after all."""
        self._callers.pop(job.job_id, None)

    def closed(self, job: Job) -> None:
        """It has ended."""
        if not isinstance(job.request, ModelWork):
            return
        caller = self._callers.pop(job.job_id, None)
        key = caller.name if caller is not None else job.client.partition(BY_KEY)[2]
        into, out = job.prompt_tokens or 0, job.tokens_out
        self.usage.add(
            key=key,
            app=caller.app if caller is not None else "unknown",
            model=job.model.id if job.model is not None else "",
            tokens_in=into,
            tokens_out=out,
            utc=self._clock.utc(),
        )
        if key:
            self._gate.spend(key, into + out)

    async def run(self) -> None:
        """Bring the counts to disk now and then."""
        while True:
            await anyio.sleep(FLUSH_EVERY)
            try:
                await self.usage.flush()
            except RbeeError as exc:
                log.error("use is not kept: %s", exc)

    def close(self) -> None:
        """Bring the last of them there."""
        try:
            self.usage.close()
        except RbeeError as exc:
            log.error("use is not kept: %s", exc)
