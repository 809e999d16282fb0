"""One answer from the queen: submitted once, followed to its end, over her absence.

Owns the connection and what a lost one means; what came goes into the Answer. A job outlives its
stream, so that a stream that breaks is taken up where it was, for as long as PATIENCE says.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import anyio

from rbee.client import QueenClient
from rbee.errors import (
    BadGateway,
    ConnectionTimeout,
    JobFinished,
    QueenUnreachable,
    RbeeError,
)
from rbee.protocol.jobs import JobState
from rbee.protocol.operations import Infer
from rbee.tui.answer import Answer
from rbee.tui.link import QueenLink


@dataclass(frozen=True)
class Patience:
    """`tries`: so often a stream may break with nothing new; `seconds`: so long she may be away."""

    tries: int = 5
    pause: float = 0.5
    seconds: float = 90.0
    lived: float = 10.0
    """A stream that held for so many seconds was a good one."""


PATIENCE = Patience()


async def ask(
    link: QueenLink, operation: Infer, answer: Answer, clock: Callable[[], float]
) -> None:
    """Until the answer has ended; every failure ends it, too, with its error."""
    try:
        await _submit(link, operation, answer)
        await follow(link, answer, clock)
    except (QueenUnreachable, ConnectionTimeout, BadGateway) as exc:
        if answer.wanted_stop:
            answer.stop(clock())
        elif answer.job_id is None:
            action = "When she is back: enter asks again."
            answer.fail(QueenUnreachable(exc.message, action=action), clock())
        else:
            action = f"It may go on without us: `rbee job show {answer.job_id}`; enter asks again."
            answer.fail(type(exc)(exc.message, action=action), clock())
    except RbeeError as exc:
        answer.fail(exc, clock())


async def follow(link: QueenLink, answer: Answer, clock: Callable[[], float]) -> None:
    """An answer's job to its end. Raises RbeeError when that cannot be had."""
    await _follow(link, answer, clock, PATIENCE)
    if not answer.ended:
        raise BadGateway(f"the stream of job {answer.job_id} has no end")


async def goes_on(link: QueenLink, job_id: str) -> bool:
    """Whether a job is under way or complete, as far as the queen can be asked; waits for her."""
    with anyio.move_on_after(PATIENCE.seconds), suppress(RbeeError):
        async with QueenClient((await link.arrived()).url) as client:
            job = await client.job(job_id)
            return job.state not in (JobState.FAILED, JobState.CANCELLED)
    return False


async def stop(link: QueenLink, answer: Answer, clock: Callable[[], float]) -> None:
    """Have an answer end. Raises RbeeError when the queen does not take it."""
    answer.wanted_stop = True
    if answer.away_since is not None:
        answer.stop(clock())  # the job itself is cancelled when she is back
    elif answer.job_id is not None:
        try:
            await link.require().cancel(answer.job_id)
        except JobFinished:
            return


async def _submit(link: QueenLink, operation: Infer, answer: Answer) -> None:
    # A connection of its own: the event stream's client closes whenever the queen moves.
    async with QueenClient(link.require().url) as client:
        accepted = await client.submit(operation)
        answer.job_id = accepted.job_id
        if answer.wanted_stop:
            await client.cancel(accepted.job_id)


async def _follow(
    link: QueenLink, answer: Answer, clock: Callable[[], float], patience: Patience
) -> None:
    job_id, tries = answer.job_id or "", 0
    gone_at: float | None = None
    while True:
        before, opened = answer.seen, anyio.current_time()
        try:
            async with QueenClient(link.require().url) as client:
                if answer.away_since is not None and answer.wanted_stop:
                    await client.cancel(job_id)
                async for event in client.job_stream(job_id, after=answer.seen):
                    if event.comment is None:
                        answer.apply(event, clock())
                    else:
                        answer.away_since = None
            return
        except JobFinished:
            return
        except (QueenUnreachable, ConnectionTimeout, BadGateway) as exc:
            now = anyio.current_time()
            if answer.seen > before or now - opened > patience.lived:
                tries, gone_at = 0, None
            gone_at = now if gone_at is None else gone_at
            tries += not isinstance(exc, QueenUnreachable)
            if tries >= patience.tries or now - gone_at > patience.seconds:
                raise
            if answer.away_since is None:
                answer.away_since = clock()
            await anyio.sleep(patience.pause)
