"""One job on the command line: submit it, follow its stream, cancel it on Ctrl+C.

Owns what all such commands share: narration on stderr, the exit code of a signal, and a broken
stream that is taken up again by event id while the queen comes back. Prints no data.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
import msgspec

from rbee.client import QueenClient
from rbee.commands.bars import Bars
from rbee.commands.common import client
from rbee.errors import (
    BadGateway,
    Cancelled,
    ConnectionTimeout,
    InvalidRequest,
    JobFinished,
    QueenUnreachable,
    RbeeError,
    ValidationFailed,
)
from rbee.narration import Narrator
from rbee.output import milliseconds
from rbee.protocol.base import decode, encode
from rbee.protocol.jobs import (
    CancelledData,
    EndData,
    ErrorData,
    EventType,
    MetricsData,
    QueuedData,
    StartedData,
    StatusData,
)
from rbee.protocol.operations import Operation
from rbee.sse import ServerEvent

NETWORK = 255
"""The exit code of errors of SSH and the network."""
CANCEL_LIMIT = 5.0
TELL_AFTER, TELL_EVERY = 1.0, 10.0
"""Seconds without an answer after which is said what is waited for."""
RECONNECT = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Seconds between tries to take up a broken stream."""

Take = Callable[[ServerEvent], None]
"""Is given the events that are data: tokens and results."""
_PLACE = re.compile(r"position=(?P<position>\d+)(?: eta_ms=(?P<eta>\d+))?")
"""In the comments that keep the stream of a waiting job alive."""


@dataclass
class Course:
    """What is known of the job so far."""

    job_id: str
    last_id: int = 0
    before: int = 0
    """How many were told to be before it in the queue."""
    lost: bool = False
    """Whether its worker was lost and no other has taken it up yet."""
    started: StartedData | None = None
    metrics: MetricsData | None = None
    end: EndData | None = None
    error: RbeeError | None = None
    """What it ended with instead; not to be taken for one of the stream."""


@dataclass(frozen=True)
class Manner:
    """How a command does it."""

    ephemeral: bool
    quiet: bool
    as_json: bool
    reaches: bool = False
    """It is about reaching a machine: that this fails is told by its exit code; of other commands
    it is one of many reasons."""


def run(manner: Manner, work: Callable[[QueenClient, Bars], Awaitable[None]]) -> int:
    """Do the work on a queen that is found or started; the exit code."""
    return anyio.run(_interruptible, manner, work)


async def follow(
    operation: Operation, queen: QueenClient, narrator: Narrator, take: Take
) -> Course:
    """Submit and read to the end. Raises the error that the job ended with."""
    encode(operation)
    return await attend(await _submitted(operation, queen, narrator), queen, narrator, take)


async def _submitted(operation: Operation, queen: QueenClient, narrator: Narrator) -> str:
    """The job's id. The queen answers at once, unless a machine has to be reached or a model has
    to be looked at before she can say whether it can be done; then that is told."""
    hive = getattr(operation, "hive", None)
    what = f"looking whether {hive} can do it" if hive else "looking where it can be done"
    outcome: list[str | RbeeError] = []

    async def submit() -> None:
        try:
            outcome.append((await queen.submit(operation)).job_id)
        except RbeeError as exc:  # must not be wrapped into the group's
            outcome.append(exc)
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(submit)
        waited = 0.0
        for pause in (TELL_AFTER, *[TELL_EVERY] * 100):
            await anyio.sleep(pause)
            waited += pause
            narrator.say(f"{what}: {waited:.0f} s by now" if waited > TELL_AFTER else what)
        await anyio.sleep_forever()
    if isinstance(outcome[0], RbeeError):
        raise outcome[0]
    return outcome[0]


async def attend(job_id: str, queen: QueenClient, narrator: Narrator, take: Take) -> Course:
    """Read a job of ours to its end; it ends with us. Raises the error that it ended with."""
    course = Course(job_id)
    try:
        await _read(course, queen, narrator, take)
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True), anyio.move_on_after(CANCEL_LIMIT):
            await _cancel(queen, course)
        raise
    except BrokenPipeError:
        with anyio.move_on_after(CANCEL_LIMIT):
            await _cancel(queen, course)
        raise
    return course


def piped(what: str) -> str:
    """All of stdin: UTF-8, whatever the locale."""
    if sys.stdin is None:
        return ""
    try:
        return sys.stdin.buffer.read().decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as exc:
        raise ValidationFailed(
            f"the {what} on stdin is not valid UTF-8 (byte {exc.start})",
            field=what,
            constraint="UTF-8",
            action="Give it as UTF-8 text.",
        ) from exc


def content_of(path: str, *, of: str) -> str:
    """A file that was named on the command line. Raises InvalidRequest."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError) as exc:  # ValueError: no UTF-8, or a NUL in the name
        why = exc.strerror if isinstance(exc, OSError) else "is not UTF-8 text"
        raise InvalidRequest(
            f"{path[:200]!r} cannot be read: {why}", action=f"Name a file with the {of}."
        ) from exc


async def _interruptible(
    manner: Manner, work: Callable[[QueenClient, Bars], Awaitable[None]]
) -> int:
    narrator = Bars(quiet=manner.quiet)
    caught: list[int] = []
    failure: RbeeError | BrokenPipeError | None = None
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for number in signals:
                    caught.append(number)
                    tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        try:
            async with client(narrator, ephemeral=manner.ephemeral) as queen:
                await work(queen, narrator)
        except (RbeeError, BrokenPipeError) as exc:  # must not be wrapped into the group's
            failure = exc
        finally:
            narrator.clear()
        tasks.cancel_scope.cancel()
    if isinstance(failure, BrokenPipeError):
        raise failure
    if failure is not None and not caught:
        return _failed(failure, manner)
    if caught:
        kept = "; what was fetched is kept, and asked for again it goes on from there"
        narrator.say(f"cancelled{kept if narrator.kept else ''}")
        return 128 + caught[0]
    return 0


def _failed(failure: RbeeError, manner: Manner) -> int:
    from rbee.output import print_error

    print_error(failure, as_json=manner.as_json)
    machine = failure.exit_code == NETWORK and "hive" in failure.details
    return 1 if machine and not manner.reaches else failure.exit_code


async def _cancel(queen: QueenClient, course: Course) -> None:
    """Cancel and wait until the slot is free, which the job's end says."""
    try:
        await queen.cancel(course.job_id)
        async for _ in queen.job_stream(course.job_id, after=course.last_id):
            pass
    except (JobFinished, BadGateway, QueenUnreachable, ConnectionTimeout) as exc:
        sys.stderr.write(f"rbee: {exc.message}\n" if not isinstance(exc, JobFinished) else "")


async def _read(course: Course, queen: QueenClient, narrator: Narrator, take: Take) -> None:
    pauses = iter(RECONNECT)
    while course.end is None and course.error is None:
        try:
            async for event in queen.job_stream(course.job_id, after=course.last_id):
                if event.data:
                    _note(course, event, narrator, take)
                elif event.comment is not None and (place := _PLACE.search(event.comment)):
                    eta_ms = int(place["eta"]) if place["eta"] else None
                    _tell_place(course, int(place["position"]), eta_ms, narrator)
            if course.end is None and course.error is None:
                raise BadGateway(f"the stream of {course.job_id} ended without an end")
        except (BadGateway, QueenUnreachable, ConnectionTimeout):
            pause = next(pauses, None)
            if pause is None:
                raise
            narrator.say(f"the stream broke; taking it up again in {pause:g} s")
            await anyio.sleep(pause)
    if course.error is not None:
        raise course.error


def _note(course: Course, event: ServerEvent, narrator: Narrator, take: Take) -> None:
    if event.id is not None and event.id.isdigit():
        course.last_id = int(event.id)
    match event.event:
        case EventType.TOKEN | EventType.RESULT:
            take(event)
        case EventType.QUEUED:
            queued = decode(event.data, QueuedData)
            _tell_place(course, queued.position, queued.eta_ms, narrator)
        case EventType.STATUS:
            status = decode(event.data, StatusData)
            course.lost = course.lost or status.stage == "resuming"
            if status.progress is not None:
                narrator.progress(status.message, status.progress, stage=status.stage)
            else:
                narrator.say(status.message)
        case EventType.STARTED:
            started = decode(event.data, StartedData)
            narrator.say(_who(course, started))
            course.started, course.lost = started, False
        case EventType.METRICS:
            course.metrics = decode(event.data, MetricsData)
        case EventType.END:
            course.end = decode(event.data, EndData)
        case EventType.ERROR:
            error = decode(event.data, ErrorData)
            course.error = RbeeError.from_body({"error": msgspec.to_builtins(error)})
        case EventType.CANCELLED:
            reason = decode(event.data, CancelledData).reason
            course.error = Cancelled(f"the job was cancelled: {reason}")
        case _:
            pass


def _who(course: Course, now: StartedData) -> str:
    """Who answers, and after whom."""
    here = f"{now.worker_id}@{now.hive} {now.device}"
    if not now.tokens_before:
        again = f" (try {now.attempt})" if now.attempt > 1 else ""
        return f"{now.model} on {here}{again}"
    tokens = f"after {now.tokens_before} token{'' if now.tokens_before == 1 else 's'}"
    if course.lost and course.started is not None:
        return f"{course.started.worker_id} was lost {tokens}; {here} goes on"
    return f"{here} goes on {tokens}"


def _tell_place(course: Course, position: int, eta_ms: int | None, narrator: Narrator) -> None:
    before = position - 1
    if before == course.before:
        return
    course.before = before
    place = f"{before} before you" if before else "you are next"
    when = f", about {milliseconds(eta_ms)}" if eta_ms is not None else ""
    narrator.say(f"queued, {place}{when}")
