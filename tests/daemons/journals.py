"""Journals as the tests of them begin, fill, lose and read them."""

from __future__ import annotations

import os

from rbee.daemons.queen.journal import Journal
from rbee.daemons.queen.streams import JobStream
from rbee.protocol.jobs import EventType

Events = list[tuple[str, bytes]]


def begin(journal: Journal, job_id: str) -> JobStream:
    return JobStream(journal.begin(job_id), journal)


def say(stream: JobStream, text: str, ids: bytes = b"") -> None:
    stream.append(EventType.TOKEN, b'{"t":"%b","i":%d}' % (text.encode(), stream.tokens), ids)


def killed(journal: Journal) -> Journal:
    """The next queen's journal, after this one's process went without a word."""
    os.close(journal._fd)  # all that the kernel does for a killed process
    return Journal.open(journal.path)


def seen(journal: Journal, job_id: str) -> Events:
    return journal.found[job_id].events


def on_disk(journal: Journal) -> bytes:
    return journal.path.read_bytes()
