"""What all streams of server-sent events in OpenAI's words have in common.

Owns how they fail and end, and the comments that say what a caller waits for; what an event of the
answer becomes is each one's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec

from rbee.daemons.queen.openai_replies import Run, failure_of, openai_error
from rbee.errors import InternalError, RbeeError, ShuttingDown
from rbee.protocol.jobs import EventType, JobState, StartedData, StatusData
from rbee.sse import DONE, encode_comment, encode_event

STAGES = ("downloading", "loading")
"""Of a model on its way, whose progress is told."""


class Events(ABC):
    """See `answer_stream.Telling`. `late`: the headers go out before it is known who serves it."""

    mark = DONE
    """What ends the stream."""

    def __init__(self, runs: Sequence[Run], *, late: bool = False) -> None:
        self.runs = runs
        self._late = late
        self._progress = ""

    @abstractmethod
    def opening(self) -> bytes:
        """What comes first."""

    @abstractmethod
    def event(self, index: int, kind: str, data: bytes) -> bytes:
        """One event of one run: a token, or its good end."""

    def ending(self) -> bytes:
        """What comes last, before the mark."""
        return b""

    def broken(self, error: RbeeError) -> bytes:
        """What is told of a failure, before the mark."""
        return encode_event(bytes(openai_error(error).body))

    def told(self, index: int, events: Sequence[tuple[str, bytes]]) -> bytes:
        """See Telling."""
        if len(events) == 1:
            return self._told(index, *events[0])
        return b"".join([self._told(index, kind, data) for kind, data in events])

    def failure(self, index: int) -> bytes:
        """See Telling."""
        error = failure_of(self.runs[index].stream) or InternalError("the stream ended")
        return self.broken(error) + self.mark

    def closing(self) -> bytes:
        """See Telling."""
        if not all(run.stream.ended for run in self.runs):
            return self.broken(ShuttingDown("the queen is shutting down")) + self.mark
        return self.ending() + self.mark

    def silence(self) -> bytes:
        """A comment, with why it waits where that is known."""
        job = self.runs[0].job
        why = job.waiting_for if job.state is JobState.QUEUED else None
        return _comment(f"keepalive {why}" if why else "keepalive")

    def _told(self, index: int, kind: str, data: bytes) -> bytes:
        if kind in (EventType.TOKEN, EventType.END):
            return self.event(index, kind, data)
        if kind == EventType.STATUS:
            return self._status(data)
        if kind == EventType.STARTED and self._late:
            return _served(msgspec.json.decode(data, type=StartedData))
        return b""

    def _status(self, data: bytes) -> bytes:
        """A comment for each percent of a model on its way; nothing for other news."""
        status = msgspec.json.decode(data, type=StatusData)
        if status.stage not in STAGES or status.progress is None:
            return b""
        progress = f"{status.stage} {int(100 * status.progress)} %"
        if progress == self._progress:
            return b""
        self._progress = progress
        return _comment(progress)


def _served(started: StartedData) -> bytes:
    """What the headers would have said."""
    return _comment(
        f"rbee worker={started.worker_id} hive={started.hive} model={started.model}"
        f" quant={started.quant or 'unknown'} device={started.device}"
        f" queue_ms={started.queued_ms}"
    )


def _comment(text: str) -> bytes:
    return encode_comment(" ".join(text.split()))
