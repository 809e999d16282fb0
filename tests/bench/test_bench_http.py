"""Replies and events out of recorded bytes, however they were cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.http_bytes import BadReply, read_reply, split_events, unchunk

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
EVENTS = [b'{"token":"a"}', b'{"token":"\xc3\xa9"}', b"[DONE]"]


def chunked(pieces: list[bytes]) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


def cut(raw: bytes, places: list[int]) -> list[tuple[float, bytes]]:
    borders = sorted({0, len(raw), *(place % len(raw) for place in places)})
    parts = [raw[a:b] for a, b in pairwise(borders)]
    return [(float(number), part) for number, part in enumerate(parts)]


def stream(line_end: bytes) -> bytes:
    return b": hello" + 2 * line_end + b"".join(b"data: " + e + 2 * line_end for e in EVENTS)


@settings(deadline=None, max_examples=60)
@given(
    places=st.lists(st.integers(0, 10_000), max_size=12),
    inner=st.lists(st.integers(0, 10_000), max_size=6),
    line_end=st.sampled_from([b"\n", b"\r\n"]),
)
def test_any_cut_gives_the_same_events_each_at_its_last_bytes_time(
    places: list[int], inner: list[int], line_end: bytes
):
    body = stream(line_end)
    raw = chunked([part for _, part in cut(body, inner)])
    chunks = cut(raw, places)
    reply = read_reply(chunks)
    assert (reply.status, reply.body) == (200, body)
    assert [event.data for event in reply.events] == EVENTS
    have = b""
    for at, part in chunks:
        have += part
        come = len(partial_body(have))
        whole = [data for end, data in split_events(body) if end <= come]
        assert [event.data for event in reply.events if event.at <= at] == whole


def partial_body(raw: bytes) -> bytes:
    """What of the body is in a chunked reply that has not ended."""
    _, end, rest = raw.partition(b"\r\n\r\n")
    out = b""
    while end and rest:
        size, newline, rest = rest.partition(b"\r\n")
        if not newline or int(size, 16) == 0:
            break
        out += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return out


def test_a_body_without_chunks_goes_to_the_end():
    raw = HEAD + b"\r\ndata: 1\n\ndata: 2\n\ndata: cut"
    assert [event.data for event in read_reply([(1.0, raw)]).events] == [b"1", b"2"]


def test_an_error_body_is_no_stream():
    raw = b"HTTP/1.1 503 Busy\r\nContent-Type: application/json\r\n\r\n{}"
    reply = read_reply([(0.0, raw)])
    assert (reply.status, reply.body, reply.events) == (503, b"{}", ())


def test_lines_of_one_event_are_joined():
    assert split_events(b"data: a\ndata:b\n\n\n") == [(16, b"a\nb")]


@pytest.mark.parametrize(
    "raw",
    [b"", b"HTTP/1.1 200 OK\r\n", b"nonsense\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"],
)
def test_what_is_no_reply_is_refused(raw: bytes):
    with pytest.raises(BadReply):
        read_reply([(0.0, raw)])


@pytest.mark.parametrize("raw", [b"", b"5\r\nab", b"zz\r\n", b"2\r\nab\r\n", b"2\r\nab"])
def test_chunks_that_do_not_end_are_refused(raw: bytes):
    with pytest.raises(BadReply):
        unchunk(raw, 0)
