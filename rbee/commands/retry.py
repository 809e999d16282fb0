"""`rbee job retry`: ask again what failed or was cancelled.

The new job's id goes to stdout; with `--follow` its answer does, as if it had been asked for now.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable

from rbee.client import QueenClient
from rbee.commands import embed, infer
from rbee.commands.common import ask, check_id
from rbee.commands.following import Course, Manner, Take, attend
from rbee.commands.following import run as run_job
from rbee.narration import Narrator
from rbee.output import print_json
from rbee.sse import ServerEvent


def run(job_id: str, manner: Manner, *, follow: bool) -> int:
    """Retry, print, return the exit code."""
    check_id(job_id, of="job")
    if follow:
        return _followed(job_id, manner)
    accepted = ask(lambda queen: queen.retry(job_id))
    if manner.as_json:
        print_json(accepted)
    else:
        sys.stdout.write(f"{accepted.job_id}\n")
    return 0


def _followed(job_id: str, manner: Manner) -> int:
    as_json = manner.as_json

    async def work(queen: QueenClient, narrator: Narrator) -> None:
        operation = (await queen.job(job_id)).operation
        fresh = (await queen.retry(job_id)).job_id
        narrator.say(f"{job_id} is tried again as {fresh}")

        def read(take: Take) -> Awaitable[Course]:
            return attend(fresh, queen, narrator, take)

        if operation == "infer":
            await infer.tell(read, narrator, as_json=as_json)
        elif operation == "embed":
            await embed.tell(read, narrator, as_json=as_json)
        else:
            results: list[ServerEvent] = []
            course = await read(results.append)
            if as_json:
                print_json({"job_id": fresh, "operation": operation, "end": course.end})
            else:
                narrator.say(f"{operation} is done")

    return run_job(manner, work)
