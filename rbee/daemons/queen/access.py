"""The queen's keys, her gate and her ledger, put together. Owns the wiring only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rbee.access.keys import Keys, owner_token
from rbee.access.usage import Usage
from rbee.daemons.queen.doors import posture
from rbee.daemons.queen.gate import Gate
from rbee.daemons.queen.ledger import Ledger
from rbee.errors import InternalError, NotFound

if TYPE_CHECKING:
    from starlette.requests import Request

    from rbee.clock import Clock
    from rbee.core.colony import Colony
    from rbee.daemons.queen.callers import Caller
    from rbee.daemons.queen.doors import Doors
    from rbee.daemons.queen.store import Store
    from rbee.paths import Paths
    from rbee.settings import QueenSettings


class Access:
    """`gate` lets callers in, `ledger` hears what their jobs used, `keys` are on disk."""

    def __init__(
        self,
        *,
        paths: Paths,
        clock: Clock,
        settings: Callable[[], QueenSettings],
        colony: Callable[[], Colony],
        store: Store,
    ) -> None:
        """Raises InternalError when what is kept cannot be read."""
        self._colony = colony
        self._store = store
        self._clock = clock
        self._settings = settings
        self.keys = Keys(paths.keys_file)
        owner = owner_token(paths.owner_file, make=True)
        if owner is None:
            raise InternalError(f"{paths.owner_file} cannot be made")
        self.gate = Gate(
            keys=self.keys, owner=owner, settings=settings, clock=clock, owns=self._owns
        )
        self.usage = Usage(paths.usage_file, settings().usage_days)
        self.ledger = Ledger(self.usage, self.gate, clock)

    def posture(self, doors: Doors) -> list[str]:
        """What is open beyond her owner, one sentence each."""
        keys = self.keys.usable(self._clock.utc())
        return posture(self._settings(), doors.tls, doors.address, keys)

    async def _owns(self, request: Request, caller: Caller) -> None:
        """A job of other callers is, for one with a key for models only, none. Raises NotFound."""
        job_id = request.path_params["job_id"]
        job = self._colony().jobs.get(job_id)
        if job is None:
            await self._store.flush()
        known = job or await self._store.job(job_id)
        if known is None or known.client != caller.client:
            raise NotFound(f"no job {job_id[:80]} of this key")
