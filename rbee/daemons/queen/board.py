"""The notice board: colony events for dashboards, each a snapshot and then deltas.

A reader that falls too far behind gets a fresh snapshot instead of what it missed; it never slows
the queen. Owns the last lines of narration.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable

import anyio

from rbee.protocol.base import Wire, encode
from rbee.protocol.colony import Narration, Snapshot
from rbee.sse import encode_comment, encode_event

HEARTBEAT = 5.0
MAX_BEHIND = 4000
NARRATION_KEPT = 500


class _Reader:
    def __init__(self) -> None:
        self.pending: list[bytes] = []
        self.lost = True
        self.wake = anyio.Event()


class Board:
    """Publish to whoever reads. `snapshot` is called when a reader needs the whole picture,
    `watched` when the first comes and the last goes."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], watched: Callable[[bool], None] | None = None
    ) -> None:
        self._snapshot = snapshot
        self._watched = watched
        self._readers: set[_Reader] = set()
        self._closed = False
        self.narration: deque[Narration] = deque(maxlen=NARRATION_KEPT)

    def publish(self, name: str, data: Wire) -> None:
        """One delta to all readers; encoded once, not at all when nobody reads."""
        if name == "narration":
            assert isinstance(data, Narration)
            self.narration.append(data)
        if not self._readers:
            return
        block = encode_event(encode(data), event=name)
        for reader in self._readers:
            if len(reader.pending) >= MAX_BEHIND:
                reader.pending.clear()
                reader.lost = True
            if not reader.lost:
                reader.pending.append(block)
            reader.wake.set()

    async def read(self) -> AsyncGenerator[bytes]:
        """Blocks of server-sent events: a snapshot, deltas, a comment after 5 s of silence."""
        reader = _Reader()
        self._readers.add(reader)
        self._tell()
        try:
            while not self._closed:
                if reader.lost:
                    reader.lost = False
                    reader.pending.clear()
                    yield encode_event(encode(self._snapshot()), event="snapshot")
                elif reader.pending:
                    blocks, reader.pending = reader.pending, []
                    yield b"".join(blocks)
                else:
                    reader.wake = anyio.Event()
                    with anyio.move_on_after(HEARTBEAT) as limit:
                        await reader.wake.wait()
                    if limit.cancelled_caught:
                        yield encode_comment("heartbeat")
        finally:
            self._readers.discard(reader)
            self._tell()

    def _tell(self) -> None:
        if self._watched is not None:
            self._watched(bool(self._readers))

    def close(self) -> None:
        """Let all readers go."""
        self._closed = True
        for reader in self._readers:
            reader.wake.set()
