"""How jobs on models have ended: read from their streams, which say what helps.

Asks the queen once for each; whoever shows it keeps it.
"""

from __future__ import annotations

from rbee.client import QueenClient
from rbee.errors import RbeeError
from rbee.protocol.base import builtins, decode
from rbee.protocol.jobs import ErrorData, EventType
from rbee.tui.carriage import Tale


async def tale_of(client: QueenClient, job_id: str) -> Tale:
    """How a job has ended, by its stream."""
    tale = Tale()
    async for event in client.job_stream(job_id, follow=False):
        if event.event == EventType.ERROR:
            error = builtins(decode(event.data, ErrorData))
            tale = Tale(error=RbeeError.from_body({"error": error}))
        elif event.event == EventType.RESULT:
            tale = Tale(result=decode(event.data, dict[str, object]))
    return tale
