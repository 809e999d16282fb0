"""What takes two jobs, one after the other: start a worker anew, move one to another device.

The second is asked for when the first has ended well; a failure of either is a toast. Both go on
while other screens are shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from rbee.client import QueenClient
from rbee.errors import BadGateway, Cancelled, ConnectionTimeout, QueenUnreachable, RbeeError
from rbee.protocol.base import builtins, decode
from rbee.protocol.jobs import CancelledData, ErrorData, EventType
from rbee.protocol.operations import Operation

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp

TRIES = 5
PAUSE_SECONDS = 1.0


def one_after_the_other(
    rbee: RbeeApp, first: tuple[Operation, str], second: tuple[Operation, str]
) -> None:
    """Each is an operation and the words that are told when it begins."""

    async def both() -> None:
        try:
            rbee.notify(first[1], timeout=3, markup=False)
            await _done(rbee, first[0])
        except RbeeError as exc:
            rbee.toast(exc)
            return
        rbee.submit(*second)

    rbee.run_worker(both(), exit_on_error=True)


async def _done(rbee: RbeeApp, operation: Operation) -> None:
    """Returns when the job has ended well. Raises what it failed with."""
    job_id, tries = None, 0
    while True:
        try:
            async with QueenClient(rbee.link.require().url) as client:
                if job_id is None:
                    job_id = (await client.submit(operation)).job_id
                failure = await _end_of(client, job_id)
            break
        except (QueenUnreachable, ConnectionTimeout, BadGateway):
            tries += 1
            if job_id is None or tries > TRIES:
                raise
            await anyio.sleep(PAUSE_SECONDS)
    if failure is not None:
        raise failure


async def _end_of(client: QueenClient, job_id: str) -> RbeeError | None:
    """What a job failed with; None: nothing."""
    failure: RbeeError | None = None
    async for event in client.job_stream(job_id):
        if event.event == EventType.ERROR:
            error = decode(event.data, ErrorData)
            failure = RbeeError.from_body({"error": builtins(error)})
        elif event.event == EventType.CANCELLED:
            failure = Cancelled(decode(event.data, CancelledData).reason)
    return failure
