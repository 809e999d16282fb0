"""Job streams: one append-only list of events per job, any number of readers at their own pace.

A reader is an index into the list, so a slow one costs nothing and holds nobody up. Ids count
from 1 without gaps; nothing follows a terminal event. What a reader of a durable job's stream sees
is in the journal before. Streams of ended jobs come from the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

from rbee.daemons.queen.joblog import Emitted, JobLog
from rbee.daemons.queen.readers import Reader
from rbee.errors import NotFound, RbeeError
from rbee.protocol.jobs import EventType

if TYPE_CHECKING:
    from rbee.daemons.queen.journal import Journal
    from rbee.daemons.queen.store import Store

log = logging.getLogger("rbee.streams")

KEEPALIVE = 5.0
"""Seconds of silence after which a reader gets an empty batch."""
ENDED_IN_MEMORY = 64
ENDED_BYTES = 64 << 20
"""Of those, vectors are by far the largest; the newest one stays whatever its size."""


class JobStream:
    """One job's events as (type, JSON). With a journal, events are written before they are seen."""

    __slots__ = ("_due", "_journal", "closed", "log", "wakers")

    def __init__(self, job_log: JobLog | None = None, journal: Journal | None = None) -> None:
        self.log = job_log or JobLog()
        self._journal = journal
        self.closed = False
        self.wakers: tuple[Callable[[], None], ...] = ()
        """Called when there is news, in the loop's next round: all that has gathered by then."""
        self._due = False

    @staticmethod
    def of_ended(events: list[tuple[str, bytes]]) -> JobStream:
        """A whole stream."""
        stream = JobStream()
        stream.log.events = events
        stream.log.size = sum(len(data) for _, data in events)
        stream.log.tokens = sum(kind == EventType.TOKEN for kind, _ in events)
        stream.log.ids = None
        stream.log.ended = True
        return stream

    @property
    def events(self) -> list[tuple[str, bytes]]:
        """All there are; not to be changed."""
        self._flush()
        return self.log.events

    @property
    def ended(self) -> bool:
        """Whether the terminal event is there."""
        return self.log.ended

    @property
    def tokens(self) -> int:
        """How many tokens the answer has so far: the next token event's `i`."""
        return self.log.tokens

    @property
    def durable(self) -> bool:
        """Whether a later queen will know it."""
        return self._journal is not None

    @property
    def ids_of(self) -> str | None:
        """The backend that the token ids mean something to, when that was noted."""
        return self.log.ids_of

    def append(self, kind: EventType, data: bytes, ids: bytes = b"", *, wake: bool = True) -> None:
        """Add one event; ignored after a terminal one, so that there is exactly one of those.

        `ids`: of a token event, the JSON list of the ids of the tokens that it stands for; empty
        when they are not known, then it counts as one token. Readers never get them. Without
        `wake` whoever appends calls `wake` when all that has come together is there.
        """
        mine = self.log
        if mine.ended or self.closed:
            return
        mine.append(kind, data, ids)
        if self._journal is not None:
            self._journal.add(mine.number, kind, data, ids)
        if wake and self.wakers and not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._wake)

    def wake(self) -> None:
        """Tell the readers now; of a durable job's stream when what comes meanwhile is there too,
        so that it is in the journal with one write."""
        if not self.wakers or self._due:
            return
        if self._journal is not None:
            self._due = True
            asyncio.get_running_loop().call_soon(self._wake)
            return
        try:
            self._wake()
        except Exception:  # a reader's defect is not the worker's
            log.exception("telling a reader failed")

    def note_ids_of(self, backend: str) -> None:
        """Say whose token ids come from now on; to be called before the first of them."""
        mine = self.log
        if mine.ids_of == backend or mine.ended or self.closed:
            return
        mine.ids_of = backend
        if self._journal is not None:
            self._journal.note_ids_of(mine.number, backend)

    def emitted(self) -> Emitted:
        """What the answer has so far, for a continuation on another worker."""
        return self.log.emitted()

    async def read(self, after: int = 0) -> AsyncIterator[tuple[int, list[tuple[str, bytes]]]]:
        """Batches (id of the first, events) of all that is there, then as it comes, to the end.

        An empty batch after KEEPALIVE seconds of silence.
        """
        # A stream that could not be kept begins again: a reader who is ahead of it starts over
        # rather than miss what comes.
        at = after if 0 <= after <= len(self.events) else 0
        with Reader([self], silence=KEEPALIVE) as reader:
            while True:
                events = self.events
                if at < len(events):
                    batch = events[at:]
                    yield at + 1, batch
                    at += len(batch)
                elif self.ended or self.closed:
                    return
                elif not await reader.news():
                    yield at + 1, []

    def watch(self, wake: Callable[[], None]) -> None:
        """Call this when there is news. A tuple holds them: a set for each stream takes more."""
        if wake not in self.wakers:
            self.wakers = (*self.wakers, wake)

    def unwatch(self, wake: Callable[[], None]) -> None:
        """Do not call it any more."""
        self.wakers = tuple(one for one in self.wakers if one != wake)

    def close(self) -> None:
        """Let readers go without a terminal event: the queen leaves, the job will go on later."""
        self.closed = True
        self._wake()

    def _flush(self) -> None:
        if self._journal is not None:
            self._journal.flush()

    def _wake(self) -> None:
        self._due = False
        for wake in self.wakers:
            wake()


async def read_all(
    streams: Sequence[JobStream],
) -> AsyncIterator[tuple[int, list[tuple[str, bytes]]]]:
    """Batches (which stream, events) of several streams as they come, until all have ended.

    An empty batch of the first after KEEPALIVE seconds without anything from any of them.
    """
    places = [0] * len(streams)
    with Reader(streams, silence=KEEPALIVE) as reader:
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
            if silent and not await reader.news():
                yield 0, []


class Streams:
    """The streams of all jobs that are retained."""

    def __init__(self, store: Store, journal: Journal | None = None) -> None:
        self._store = store
        self._journal = journal
        self._live: dict[str, JobStream] = {}
        self._ended: OrderedDict[str, JobStream] = OrderedDict()
        self._ended_size = 0
        self._leaving: list[JobLog] = []
        self._losses = 0

    def create(self, job_id: str, *, durable: bool = False) -> JobStream:
        """A new, empty one, or the one there is. `durable`: a later queen will know it."""
        stream = self._live.get(job_id)
        if stream is None:
            if durable and self._journal is not None:
                stream = JobStream(self._journal.begin(job_id), self._journal)
            else:
                stream = JobStream()
            self._live[job_id] = stream
        return stream

    def restore(self, job_id: str) -> JobStream | None:
        """A durable job's stream as an earlier queen left it; None when nothing of it is known."""
        kept = self._journal.adopt(job_id) if self._journal is not None else None
        if kept is None:
            return None
        stream = self._live[job_id] = JobStream(kept, self._journal)
        return stream

    def left_over(self) -> list[JobLog]:
        """What an earlier queen left of jobs that were not restored."""
        return list(self._journal.found.values()) if self._journal is not None else []

    async def settled(self) -> None:
        """All that are to be restored are: what else an earlier queen left may be forgotten."""
        if self._journal is not None:
            await self._journal.settled()

    def live(self, job_id: str) -> JobStream | None:
        """The stream of a job that has not ended."""
        return self._live.get(job_id)

    def drop(self, job_id: str) -> None:
        """The job was not accepted after all."""
        stream = self._live.pop(job_id, None)
        if stream is not None and self._journal is not None:
            stream.close()
            self._journal.release(stream.log)

    def retire(self, job_id: str, *, results: bool = True) -> list[tuple[str, bytes]]:
        """The job has ended: its events, for the store; kept in memory a while for readers.

        Without `results` those are left out; who follows the stream already still gets them. The
        journal lets go of it when what the caller gives to the store right after this is on disk.
        A stream whose terminal event is still to come is only looked at.
        """
        stream = self._live[job_id]
        if not stream.ended:
            return stream.events
        del self._live[job_id]
        if stream.durable:
            if not self._leaving:
                self._losses = self._store.losses
                asyncio.get_running_loop().call_soon(self._leave)
            self._leaving.append(stream.log)
        if not results:
            kept = [event for event in stream.events if event[0] != EventType.RESULT]
            stream = JobStream.of_ended(kept)
        self._ended[job_id] = stream
        self._ended_size += stream.log.size
        while len(self._ended) > ENDED_IN_MEMORY or (
            len(self._ended) > 1 and self._ended_size > ENDED_BYTES
        ):
            self._ended_size -= self._ended.popitem(last=False)[1].log.size
        return stream.events

    def forget(self, job_id: str) -> None:
        """Drop an ended one."""
        gone = self._ended.pop(job_id, None)
        self._ended_size -= gone.log.size if gone is not None else 0

    async def get(self, job_id: str) -> JobStream:
        """Live, remembered or from the store. Raises NotFound."""
        stream = self._live.get(job_id) or self._ended.get(job_id)
        if stream is None:
            await self._store.flush()  # it may have ended and left memory a moment ago
            events = await self._store.stream(job_id)
            if events is None:
                raise NotFound(f"no job {job_id}", action="rbee job list shows the jobs.")
            stream = JobStream.of_ended(events)
        return stream

    def counts(self) -> dict[str, int]:
        """Tokens so far of every live job."""
        return {job_id: stream.tokens for job_id, stream in self._live.items() if stream.tokens}

    def close(self) -> None:
        """End all readers."""
        for stream in self._live.values():
            stream.close()

    async def settle(self) -> None:
        """Return when the journal holds nothing that the store has; before both are closed."""
        self._leave()
        try:
            await self._store.flush()
        except RbeeError as exc:
            log.warning("ended jobs stay in the journal: %s", exc.message)

    def _leave(self) -> None:
        """Ended jobs leave the journal once the store has written what it was given of them."""
        journal, logs, losses = self._journal, self._leaving, self._losses
        self._leaving = []
        if journal is None or not logs:
            return

        def written() -> None:
            if self._store.losses == losses:
                for one in logs:
                    journal.release(one)
            else:
                log.warning("%d ended jobs stay in the journal: writes were lost", len(logs))

        self._store.after(written)
