"""Job streams: one append-only list of events per job, any number of readers at their own pace.

A reader is an index into the list, so a slow one costs nothing and holds nobody up. Ids count
from 1 without gaps; nothing follows a terminal event. Streams of ended jobs come from the store.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import anyio

from rbee.errors import NotFound
from rbee.protocol.jobs import TERMINAL_EVENTS, EventType

if TYPE_CHECKING:
    from rbee.daemons.queen.store import Store

KEEPALIVE = 5.0
"""Seconds of silence after which a reader gets an empty batch."""
ENDED_IN_MEMORY = 64
ENDED_BYTES = 64 << 20
"""Of those, vectors are by far the largest; the newest one stays whatever its size."""


class JobStream:
    """One job's events as (type, JSON)."""

    def __init__(
        self, events: list[tuple[str, bytes]] | None = None, *, ended: bool = False
    ) -> None:
        self.events = events or []
        self.ended = ended
        self.closed = False
        self.tokens = 0
        self.size = sum(len(data) for _, data in self.events)
        self.wakers: set[anyio.Event] = set()

    def append(self, kind: EventType, data: bytes) -> None:
        """Add one event; ignored after a terminal one, so that there is exactly one of those."""
        if self.ended or self.closed:
            return
        self.events.append((kind, data))
        self.size += len(data)
        if kind is EventType.TOKEN:
            self.tokens += 1
        elif kind in TERMINAL_EVENTS:
            self.ended = True
        self._wake()

    async def read(self, after: int = 0) -> AsyncIterator[tuple[int, list[tuple[str, bytes]]]]:
        """Batches (id of the first, events) of all that is there, then as it comes, to the end.

        An empty batch after KEEPALIVE seconds of silence.
        """
        # A job that runs again after its queen died has a new stream: a reader who is ahead of it
        # starts over rather than miss what comes.
        at = after if 0 <= after <= len(self.events) else 0
        while True:
            if at < len(self.events):
                batch = self.events[at:]
                yield at + 1, batch
                at += len(batch)
            elif self.ended or self.closed:
                return
            else:
                if not await _news([self]):
                    yield at + 1, []

    def close(self) -> None:
        """Let readers go without a terminal event: the queen leaves, the job will go on later."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        for wake in self.wakers:
            wake.set()
        self.wakers.clear()


async def read_all(
    streams: Sequence[JobStream],
) -> AsyncIterator[tuple[int, list[tuple[str, bytes]]]]:
    """Batches (which stream, events) of several streams as they come, until all have ended.

    An empty batch of the first after KEEPALIVE seconds without anything from any of them.
    """
    places = [0] * len(streams)
    while True:
        ended = all(stream.ended or stream.closed for stream in streams)
        silent = True
        for which, stream in enumerate(streams):
            batch = stream.events[places[which] :]
            if batch:
                silent = False
                places[which] += len(batch)
                yield which, batch
        if silent and ended:
            return
        if silent and not await _news(streams):
            yield 0, []


async def _news(streams: Sequence[JobStream]) -> bool:
    """Wait until something happens to one of them; False after KEEPALIVE seconds of silence."""
    wake = anyio.Event()
    for stream in streams:
        stream.wakers.add(wake)
    try:
        with anyio.move_on_after(KEEPALIVE):
            await wake.wait()
    finally:
        for stream in streams:
            stream.wakers.discard(wake)
    return wake.is_set()


class Streams:
    """The streams of all jobs that are retained."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._live: dict[str, JobStream] = {}
        self._ended: OrderedDict[str, JobStream] = OrderedDict()
        self._ended_size = 0

    def create(self, job_id: str) -> JobStream:
        """A new, empty one."""
        return self._live.setdefault(job_id, JobStream())

    def live(self, job_id: str) -> JobStream | None:
        """The stream of a job that has not ended."""
        return self._live.get(job_id)

    def retire(self, job_id: str, *, results: bool = True) -> list[tuple[str, bytes]]:
        """The job has ended: its events, for the store; kept in memory a while for readers.

        Without `results` those are left out; who follows the stream already still gets them.
        """
        stream = self._live.pop(job_id)
        if not results:
            kept = [event for event in stream.events if event[0] != EventType.RESULT]
            stream = JobStream(kept, ended=True)
        self._ended[job_id] = stream
        self._ended_size += stream.size
        while len(self._ended) > ENDED_IN_MEMORY or (
            len(self._ended) > 1 and self._ended_size > ENDED_BYTES
        ):
            self._ended_size -= self._ended.popitem(last=False)[1].size
        return stream.events

    def forget(self, job_id: str) -> None:
        """Drop an ended one."""
        gone = self._ended.pop(job_id, None)
        self._ended_size -= gone.size if gone is not None else 0

    async def get(self, job_id: str) -> JobStream:
        """Live, remembered or from the store. Raises NotFound."""
        stream = self._live.get(job_id) or self._ended.get(job_id)
        if stream is None:
            await self._store.flush()  # it may have ended and left memory a moment ago
            events = await self._store.stream(job_id)
            if events is None:
                raise NotFound(f"no job {job_id}", action="rbee job list shows the jobs.")
            stream = JobStream(events, ended=True)
        return stream

    def counts(self) -> dict[str, int]:
        """Tokens so far of every live job."""
        return {job_id: stream.tokens for job_id, stream in self._live.items() if stream.tokens}

    def close(self) -> None:
        """End all readers."""
        for stream in self._live.values():
            stream.close()
