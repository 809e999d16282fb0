"""What a worker says, in whatever pieces it comes: the same as by the general decoder."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rbee.daemons.queen.worker_events import WorkerEvent, WorkerEvents
from rbee.protocol.base import encode
from rbee.protocol.workers import DoneEvent, LikelyToken, TextEvent, TokenLogprob, Usage
from rbee.sse import DONE, Decoder, encode_comment, encode_event

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ['"', "\\", '\\"', '","index":', "\n\n", "\r\n\r\n", "data: ", "[DONE]", "\u2028", "\0", "}"]
)
likely = st.builds(
    LikelyToken, token=texts, bytes=st.lists(st.integers(0, 255), max_size=3), logprob=st.just(-0.5)
)
logprobs = st.builds(
    TokenLogprob,
    token=texts,
    bytes=st.just([1]),
    logprob=st.floats(-99, 0),
    top=st.lists(likely, max_size=2),
)
pieces = st.builds(
    TextEvent, token=texts, index=st.integers(0, 1 << 40), logprob=st.none() | logprobs
)
USAGE = Usage(prompt_tokens=3, completion_tokens=2, prefill_ms=1.5)
ENDING = DoneEvent(done=True, total_tokens=2, finish_reason="stop", usage=USAGE)


def loosely(piece: TextEvent) -> bytes:
    """The same by another encoder: spaces, another order, ids."""
    value: dict[str, Any] = {"index": piece.index, "ids": [1, 2], "token": piece.token}
    return json.dumps(value, ensure_ascii=len(piece.token) % 2 == 0).encode()


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    """One event, by a worker or by somebody who knows the standard only."""
    piece = draw(pieces)
    data = draw(st.sampled_from([encode(piece), loosely(piece), encode(ENDING)]))
    return draw(
        st.sampled_from(
            [
                encode_event(data),
                encode_event(data, event="token", id=7),
                b"data:" + data + b"\n\n",
                b"data: " + data + b"\nid: 3\n\n",
                b"data: {\ndata: }\n\n",
                b"data\n\n",
                b"\n\n\n",
                encode_comment("keepalive"),
                encode_comment("prefill 3/10"),
                b": x\ndata: " + data + b"\n\n",
                encode_event(b'{"error":{"code":"X","message":"y"}}'),
                encode_event(b'{"token":"\xff\xfe","index":1}'),
                DONE,
            ]
        )
    )


streams = st.lists(blocks(), max_size=6).map(b"".join)
cuts = st.lists(st.integers(0, 500), max_size=8)


def split(stream: bytes, at: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(stream)) for cut in at})
    return [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]


def plain(event: WorkerEvent) -> tuple[Any, ...]:
    raws = bytes(event.token), bytes(event.logprob), bytes(event.ids)
    return *raws, event.done, event.error, event.finish_reason, event.total_tokens, event.usage


def fast(chunks: list[bytes]) -> list[Any]:
    events = WorkerEvents()
    out = [plain(event) for chunk in chunks for event in events.feed(chunk)]
    return [*out, events.comment, events.ended]


def slow(stream: bytes) -> list[Any]:
    out: list[Any] = []
    comment, ended = "", False
    for event in Decoder().feed(stream):
        if event.comment is not None:
            comment = event.comment
        elif event.data == "[DONE]":
            ended = True
        elif event.data:
            out.append(plain(msgspec.json.decode(event.data, type=WorkerEvent)))
    return [*out, comment, ended]


@given(streams, cuts)
@settings(deadline=None, max_examples=150)
@example(encode_event(b'{"token":"\xc3\xa4","index":1}'), [17])
@example(encode_event(b'{"token":"a","index":1}') * 2, [])
def test_any_chunking_gives_what_the_general_decoder_gives(stream: bytes, at: list[int]) -> None:
    assert fast(split(stream, at)) == slow(stream)


@given(streams, st.integers(0, 300), cuts)
@settings(deadline=None, max_examples=100)
def test_so_it_does_when_lines_begin_to_end_in_two_bytes(
    stream: bytes, turn: int, at: list[int]
) -> None:
    stream = stream[:turn] + stream[turn:].replace(b"\n", b"\r\n")
    assert fast(split(stream, at)) == slow(stream)


@given(st.lists(pieces, max_size=4))
@settings(deadline=None, max_examples=60)
def test_byte_by_byte_every_text_comes_through(said: list[TextEvent]) -> None:
    stream = b"".join(encode_event(encode(piece)) for piece in said) + DONE
    events = WorkerEvents()
    seen = [event for byte in stream for event in events.feed(bytes([byte]))]
    assert [msgspec.json.decode(event.token) for event in seen] == [p.token for p in said]
    heard = [bytes(event.logprob) for event in seen]
    assert heard == [encode(p.logprob) if p.logprob else b"" for p in said]
    assert events.ended


def test_parts_are_bytes_for_the_next_event() -> None:
    [event] = WorkerEvents().feed(encode_event(b'{"token":"a\\"b","index":1,"ids":[5,6]}'))
    assert b'{"t":%b,"ids":%b}' % (event.token, event.ids) == b'{"t":"a\\"b","ids":[5,6]}'
    assert not event.logprob


def test_a_comment_is_a_sign_of_life_and_no_event() -> None:
    events = WorkerEvents()
    assert events.feed(b": prefill 3/10\n") == []
    assert events.comment == ""
    assert events.feed(b"\n") == []
    assert events.comment == "prefill 3/10"
    assert not events.ended


def test_the_end_is_told_in_full() -> None:
    [event] = WorkerEvents().feed(encode_event(encode(ENDING)))
    assert event.end() == ENDING
    [half] = WorkerEvents().feed(encode_event(b'{"done":true,"finish_reason":"stop"}'))
    with pytest.raises(ValueError, match="usage"):
        half.end()
    [piece] = WorkerEvents().feed(encode_event(b'{"token":"","index":1}'))
    with pytest.raises(ValueError, match="end of an answer"):
        piece.end()


@pytest.mark.parametrize(
    "data",
    [b"{", b'{"token":"a', b'{"token":"a"}}', b'{"token":null}', b'{"token":5}', b"[]", b"x",
     b'{"token":"a\\x"}', b'{"token":"a","index":}', b'{"done":1}', b'{"error":"x"}'],
)  # fmt: skip
def test_what_is_no_event_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        WorkerEvents().feed(encode_event(data))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_one_event_is_bounded(end: bytes) -> None:
    events = WorkerEvents(limit=1000)
    for _ in range(3):
        assert len(events.feed(b'data: {"token":"' + b"x" * 900 + b'"}' + end * 2)) == 1
    for _ in range(2):
        assert events.feed(b"x" * 400) == []
    with pytest.raises(ValueError, match="larger than 1000"):
        events.feed(b"x" * 400)


def test_a_large_event_in_many_parts() -> None:
    data = b"data: " + encode({"token": "x" * (4 << 20)}) + b"\n\n"
    events = WorkerEvents()
    parts = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    seen = [event for part in parts for event in events.feed(part)]
    assert [len(bytes(event.token)) for event in seen] == [(4 << 20) + 2]
