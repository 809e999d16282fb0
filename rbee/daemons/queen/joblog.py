"""One job's events as they are remembered, and their form in the journal's file.

The file is a head and then frames; a frame is what one write put there, with its length and CRC-32,
so that one which a death cut short is known and counts for nothing. A frame holds records. Owns
that form and how it is read back; never opens or writes a file.

    head    RBEEJ1\\n, one byte: 0, or 1 when events are missing from here on
    frame   4 bytes mark, u32 length, u32 CRC-32 of length and content, content
    record  u32 number of the job, u8 code, u32 bytes of token ids, u32 bytes of data, ids, data
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from rbee.protocol.jobs import TERMINAL_EVENTS, EventType

log = logging.getLogger("rbee.journal")

MARK = b"\xf7bee"
HEAD = b"RBEEJ1\n\x00"
FLAG_AT = len(HEAD) - 1
"""Where the byte stands that says whether events are missing."""
FRAME = struct.Struct("<4sII")
RECORD = struct.Struct("<IBII")
OPENED, STATE, IDS_OF, CLOSED = 64, 65, 66, 67
"""Codes beside those of events: a job begins (data: its id), its count and token ids as a whole
(data: a `_State`), whose ids they are, it is in the database and may be forgotten here."""
CODES = {kind: code for code, kind in enumerate(EventType, 1)}
_KINDS = {code: kind for kind, code in CODES.items()}


class Emitted(NamedTuple):
    """What an answer has so far, for another worker to go on from."""

    text: str
    ids: list[int]
    """Empty unless the ids of all its tokens are known."""
    tokens: int
    """How many; the next token event's `i`."""


class _Text(msgspec.Struct):
    t: str


class _State(msgspec.Struct):
    tokens: int
    ids: str | None
    ids_of: str | None


class JobLog:
    """The events of one job as (type, JSON), what its answer is made of, and whether it ended.

    Grows at the end only, so another thread may copy a part whose length it was told.
    """

    __slots__ = ("ended", "events", "ids", "ids_of", "job_id", "number", "size", "tokens", "whole")

    def __init__(self, job_id: str = "", number: int = 0) -> None:
        self.job_id = job_id
        self.number = number
        """Of the job in the journal, from 1; 0: it is not there."""
        self.events: list[tuple[str, bytes]] = []
        self.ids: bytearray | None = bytearray()
        """Token ids so far, with commas between; None once those of some token are unknown."""
        self.ids_of: str | None = None
        """The backend that the ids mean something to."""
        self.tokens = 0
        self.size = 0
        """Bytes of the events' data."""
        self.ended = False
        self.whole = True
        """False: it was read from a journal that lacks events, perhaps of this job."""

    def append(self, kind: EventType, data: bytes, ids: bytes) -> None:
        """Add an event; `ids` as in JobStream.append."""
        self.events.append((kind, data))
        self.size += len(data)
        if kind is EventType.TOKEN:
            self._count(ids)
        elif kind in TERMINAL_EVENTS:
            self.ended = True

    def emitted(self) -> Emitted:
        """See Emitted. Decodes every token event: for the few times that an answer moves."""
        decoder = msgspec.json.Decoder(_Text)
        text = "".join([decoder.decode(d).t for k, d in self.events if k == EventType.TOKEN])
        ids: list[int] = []
        if self.ids:
            try:
                ids = msgspec.json.decode(b"[%b]" % self.ids, type=list[int])
            except msgspec.MsgspecError as exc:
                log.warning("the token ids of %s are unreadable: %s", self.job_id, exc)
        return Emitted(text, ids, self.tokens)

    def has(self, kind: EventType) -> bool:
        """Whether there is such an event."""
        return any(event[0] == kind for event in self.events)

    def _count(self, ids: bytes) -> None:
        """One token event; with ids it stands for as many tokens."""
        if ids[:1] != b"[" or ids[-1:] != b"]":
            self.tokens += 1
            self.ids = None
            return
        inner = ids[1:-1].strip()
        if inner:
            self.tokens += inner.count(b",") + 1
            if self.ids is not None:
                self.ids += b",%b" % inner if self.ids else inner


class Cut(NamedTuple):
    """A job's log as it was at some moment, without a copy of it."""

    job_log: JobLog
    events: int
    ids: bytearray | None
    ids_size: int
    tokens: int
    ids_of: str | None


def cut(job_log: JobLog) -> Cut:
    """The log as it is now."""
    ids = job_log.ids
    size = len(ids) if ids is not None else 0
    return Cut(job_log, len(job_log.events), ids, size, job_log.tokens, job_log.ids_of)


def record(number: int, code: int, data: bytes, ids: bytes = b"") -> bytes:
    """One record."""
    return RECORD.pack(number, code, len(ids), len(data)) + ids + data


def records_of(at: Cut) -> bytes:
    """All of a log as one frame's content."""
    number = at.job_log.number
    ids = at.ids[: at.ids_size].decode() if at.ids is not None else None
    parts = [record(number, OPENED, at.job_log.job_id.encode())]
    for kind, data in at.job_log.events[: at.events]:
        parts += (RECORD.pack(number, CODES[EventType(kind)], 0, len(data)), data)
    state = _State(at.tokens, ids, at.ids_of)
    parts.append(record(number, STATE, msgspec.json.encode(state)))
    return b"".join(parts)


def frame(content: bytes) -> bytes:
    """What one write puts into the file."""
    size = len(content)
    return FRAME.pack(MARK, size, zlib.crc32(content, size)) + content


@dataclass(frozen=True)
class Scan:
    """What a journal's file holds. `end`: where its last sound frame ends."""

    logs: dict[str, JobLog]
    end: int
    highest: int
    """The highest number of a job."""
    damage: str | None
    """Why the file cannot be trusted; None when at most its last write was cut short."""
    whole: bool
    """False: whoever wrote it could not write everything."""


def scan(content: bytes) -> Scan:
    """Read a journal. What is closed is left out; never raises for any content."""
    if content[:FLAG_AT] != HEAD[:FLAG_AT] or len(content) < len(HEAD):
        foreign = not HEAD.startswith(content)
        return Scan({}, 0, 0, "it is no journal of this version" if foreign else None, True)
    logs: dict[int, JobLog] = {}
    highest, end = 0, len(HEAD)
    damage = None
    for content_at, frame_end in _frames(content):
        try:
            highest = max(highest, _replay(content, content_at, frame_end, logs))
        except (struct.error, KeyError, ValueError, msgspec.MsgspecError) as exc:
            damage = f"a record near byte {content_at} is unreadable ({type(exc).__name__})"
            break
        end = frame_end
    if damage is None and _sound_after(content, end):
        damage = f"the bytes from {end} on are damaged"
    whole = content[FLAG_AT] == 0
    for job_log in logs.values():
        job_log.whole = whole and damage is None
    return Scan({one.job_id: one for one in logs.values()}, end, highest, damage, whole)


def _frames(content: bytes) -> Iterator[tuple[int, int]]:
    """Where the content of each sound frame begins and ends, up to the first that is not sound."""
    at = len(HEAD)
    while (end := _sound(content, at)) is not None:
        yield at + FRAME.size, end
        at = end


def _sound(content: bytes, at: int) -> int | None:
    """The end of the frame that begins there, None when none does or it is not whole."""
    if at + FRAME.size > len(content):
        return None
    mark, size, crc = FRAME.unpack_from(content, at)
    begin = at + FRAME.size
    if mark != MARK or begin + size > len(content):
        return None
    with memoryview(content) as view, view[begin : begin + size] as inside:
        return begin + size if zlib.crc32(inside, size) == crc else None


def _sound_after(content: bytes, at: int) -> bool:
    """Whether a sound frame follows what is not sound: then more than the last write is bad."""
    while (at := content.find(MARK, at + 1)) >= 0:
        if _sound(content, at) is not None:
            return True
    return False


def _replay(content: bytes, at: int, end: int, logs: dict[int, JobLog]) -> int:
    """Take in the records of a frame; returns the highest number of a job."""
    highest = 0
    while at < end:
        number, code, ids_size, data_size = RECORD.unpack_from(content, at)
        at += RECORD.size
        ids = content[at : at + ids_size]
        data = content[at + ids_size : at + ids_size + data_size]
        at += ids_size + data_size
        if at > end:
            raise ValueError("a record goes beyond its frame")
        highest = max(highest, number)
        if code == OPENED:
            logs[number] = JobLog(data.decode(), number)
        elif code == CLOSED:
            logs.pop(number, None)
        elif (job_log := logs.get(number)) is not None:
            _take(job_log, code, ids, data)
    return highest


def _take(job_log: JobLog, code: int, ids: bytes, data: bytes) -> None:
    if code == STATE:
        state = msgspec.json.decode(data, type=_State)
        job_log.tokens, job_log.ids_of = state.tokens, state.ids_of
        job_log.ids = bytearray(state.ids.encode()) if state.ids is not None else None
    elif code == IDS_OF:
        job_log.ids_of = data.decode()
    else:
        job_log.append(_KINDS[code], data, ids)
