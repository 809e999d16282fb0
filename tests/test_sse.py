"""Server-sent events: whatever the chunks, the same events."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rbee.sse import DONE, DataDecoder, Decoder, ServerEvent, encode_comment, encode_event

texts = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=40)
names = st.sampled_from(["token", "end", "error", "status"])
events = st.builds(
    lambda text, name, number: (json.dumps({"t": text}, ensure_ascii=False), name, number),
    texts,
    names,
    st.integers(1, 10**9),
)


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(stream)) for cut in cuts})
    return [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]


def decode(chunks: list[bytes]) -> list[ServerEvent]:
    decoder = Decoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def encoded(parts: list[tuple[str, str, int]]) -> bytes:
    return b"".join(encode_event(data.encode(), event=name, id=n) for data, name, n in parts)


cutting = st.lists(st.integers(0, 400), max_size=12)


@given(st.lists(events, max_size=5), cutting)
def test_any_chunking_gives_what_was_encoded(parts: list[tuple[str, str, int]], cuts: list[int]):
    wanted = [ServerEvent(data, name, str(number)) for data, name, number in parts]
    assert decode(split(encoded(parts), cuts)) == wanted


@given(st.lists(events, min_size=1, max_size=4), cutting)
@example([('{"t": ""}', "token", 1)], [6])
@example([('{"t": ""}', "token", 1)], [7])
def test_any_chunking_of_crlf_lines_too(parts: list[tuple[str, str, int]], cuts: list[int]):
    wanted = [ServerEvent(data, name, str(number)) for data, name, number in parts]
    assert decode(split(encoded(parts).replace(b"\n", b"\r\n"), cuts)) == wanted


@given(st.lists(events, min_size=1, max_size=3))
def test_byte_by_byte(parts: list[tuple[str, str, int]]):
    stream = encoded(parts) + DONE
    assert decode([bytes([byte]) for byte in stream]) == decode([stream])


def test_the_end_is_an_event_of_its_own():
    assert [event.data for event in decode([DONE])] == ["[DONE]"]


@given(texts)
def test_a_comment_is_told_apart_from_data(text: str):
    (event,) = decode([encode_comment(text)])
    assert (event.event, event.data, event.comment) == ("comment", "", text)


def test_a_comment_stays_on_its_line():
    (event,) = decode([encode_comment("data: forged\n\ndata: twice")])
    assert event.comment == "data: forged  data: twice"


def test_a_comment_inside_an_event_does_not_change_it():
    (event,) = decode([b": hello\nid: 3\nevent: token\ndata: {}\n\n"])
    assert (event.data, event.event, event.id) == ("{}", "token", "3")


def test_lines_of_data_are_joined_and_one_space_is_cut():
    (event,) = decode([b"data:  two\ndata:one\ndata\n\n"])
    assert event.data == " two\none\n"


def test_the_id_stays_until_the_next_one():
    assert [event.id for event in decode([b"id: 7\ndata: a\n\ndata: b\n\nid: 8\ndata: c\n\n"])] == [
        "7", "7", "8",
    ]  # fmt: skip


def test_empty_blocks_and_unknown_fields_are_no_events():
    assert decode([b"\n\n\n\nretry: 3\n\nfoo: bar\n\n"]) == []


def test_an_unfinished_event_is_kept_back():
    decoder = Decoder()
    assert decoder.feed(b"data: a\n") == []
    assert [event.data for event in decoder.feed(b"\n")] == ["a"]


def test_an_event_above_the_limit_is_refused():
    decoder = Decoder(limit=64)
    assert len(decoder.feed(b"data: small\n\n" * 20)) == 20
    decoder.feed(b"data: ")
    with pytest.raises(ValueError, match="larger than 64 bytes"):
        decoder.feed(b"x" * 64)


@given(st.lists(events, max_size=5), cutting, st.booleans())
def test_the_data_alone_is_what_the_whole_decoder_finds(
    parts: list[tuple[str, str, int]], cuts: list[int], named: bool
) -> None:
    stream = b"".join(
        encode_comment("heartbeat")
        + encode_event(data.encode(), event=name if named else None, id=n if named else None)
        for data, name, n in parts
    )
    decoder = DataDecoder()
    found = [data for chunk in split(stream, cuts) for data in decoder.feed(chunk)]
    assert found == [e.data.encode() for e in decode([stream]) if e.data]


def test_data_that_never_ends_is_refused() -> None:
    decoder = DataDecoder(limit=100)
    decoder.feed(b"data: " + b"x" * 60)
    with pytest.raises(ValueError, match="100 bytes"):
        decoder.feed(b"x" * 60)
