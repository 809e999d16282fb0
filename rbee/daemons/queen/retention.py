"""How long the past is kept: finished jobs and what was decided about them, and responses.

Owns when it is looked at. What goes, and how, is the business of who keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from rbee.clock import Clock
    from rbee.daemons.queen.responses_store import ResponseStore
    from rbee.daemons.queen.store import Store
    from rbee.settings import Settings

EVERY = 600.0
"""Seconds."""


async def retain(
    settings: Callable[[], Settings], clock: Clock, store: Store, responses: ResponseStore
) -> None:
    """Have what is too old dropped, now and then, until cancelled."""
    while True:
        job = settings().job
        store.purge(before=clock.utc() - job.retention, keep=job.finished_kept)
        await responses.purge()
        await anyio.sleep(EVERY)
