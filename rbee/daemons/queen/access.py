"""The queen's keys, her gate and her ledger, put together. Owns the wiring only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbee.access.keys import Keys, owner_token
from rbee.access.usage import Usage
from rbee.daemons.queen.callers import BY_KEY
from rbee.daemons.queen.doors import posture
from rbee.daemons.queen.gate import Gate
from rbee.daemons.queen.ledger import Ledger
from rbee.errors import InternalError, NotFound

if TYPE_CHECKING:
    from starlette.requests import Request

    from rbee.daemons.queen.callers import Caller
    from rbee.daemons.queen.doors import Doors
    from rbee.daemons.queen.queen import Queen


class Access:
    """`gate` lets callers in, `ledger` hears what their jobs used, `keys` are on disk."""

    def __init__(self, queen: Queen) -> None:
        """Raises InternalError when what is kept cannot be read."""
        self._queen = queen
        self.keys = Keys(queen.paths.keys_file)
        owner = owner_token(queen.paths.owner_file, make=True)
        if owner is None:
            raise InternalError(f"{queen.paths.owner_file} cannot be made")
        self.gate = Gate(
            keys=self.keys,
            owner=owner,
            settings=lambda: queen.settings.queen,
            clock=queen.clock,
            owns=self._owns,
        )
        self.usage = Usage(queen.paths.usage_file, queen.settings.queen.usage_days)
        self.ledger = Ledger(self.usage, self.gate, queen.clock)

    def posture(self, doors: Doors) -> list[str]:
        """What is open beyond her owner, one sentence each."""
        keys = self.keys.usable(self._queen.clock.utc())
        return posture(self._queen.settings.queen, doors.tls, doors.address, keys)

    async def _owns(self, request: Request, caller: Caller) -> None:
        """A key's jobs are those of no other key for models, and of nobody without one. Raises
        NotFound."""
        job_id = request.path_params["job_id"]
        job = self._queen.colony.jobs.get(job_id)
        if job is None:
            await self._queen.store.flush()
        known = job or await self._queen.store.job(job_id)
        of_a_key = known is not None and known.client.startswith(BY_KEY)
        if (known is None or known.client != caller.client) if caller.client else of_a_key:
            raise NotFound(f"no job {job_id[:80]} of this caller")
