"""Characters and stop strings across token borders: no model needed."""

from __future__ import annotations

import itertools
from codecs import utf_8_decode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rbee.backends.shared.text import TextStream

STOPS = st.lists(st.text("abé🐝", min_size=1, max_size=4), max_size=4)
BYTES = st.one_of(
    st.text("abé🐝 ", max_size=30).map(str.encode),
    st.lists(st.sampled_from([b"a", b"b", "é".encode(), b"\xf0\x9f", b"\x90\x9d", b"\xff"])).map(
        b"".join
    ),
    st.binary(max_size=30),
)
CUTS = st.lists(st.integers(0, 40), max_size=12)


def feed(data: list[bytes], *stops: str) -> tuple[list[str], str, bool]:
    stream = TextStream(stops)
    return [stream.feed(part) for part in data], stream.flush(), stream.stopped


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    borders = sorted({0, len(data), *(min(at, len(data)) for at in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(borders)]


def one_by_one(text: str, stops: list[str]) -> str | None:
    """The meaning, spelled out: the text before the stop that is complete first."""
    for end in range(len(text) + 1):
        done = [stop for stop in stops if text[:end].endswith(stop)]
        if done:
            return text[: end - max(map(len, done))]
    return None


def test_a_character_of_several_tokens_comes_out_whole():
    bee = "🐝".encode()
    assert feed([b"a", bee[:1], bee[1:3], bee[3:] + b"b"]) == (["a", "", "", "🐝b"], "", False)


def test_half_a_character_at_the_end_is_dropped():
    assert feed(["é".encode()[:1]]) == ([""], "", False)


def test_a_stop_string_over_three_tokens():
    parts, rest, stopped = feed([b"one ST", b"O", b"P two", b"more"], "STOP")
    assert (parts, rest, stopped) == (["one ", "", "", ""], "", True)


def test_only_what_may_begin_a_stop_string_is_held_back():
    parts, rest, stopped = feed([b"one ST", b"ART"], "STOP")
    assert (parts, rest, stopped) == (["one ", "START"], "", False)
    parts, rest, stopped = feed([b"end S"], "STOP")
    assert (parts, rest, stopped) == (["end "], "S", False)


def test_held_tells_how_many_characters_wait():
    stream = TextStream(["STOP"])
    assert (stream.feed(b"one STO"), stream.held) == ("one ", 3)
    assert (stream.feed(b" two"), stream.held) == ("STO two", 0)


@pytest.mark.parametrize(
    "stops, expected",
    [
        (("def", "c d"), "ab"),
        (("bc def", "c d"), "ab"),
        (("f", "def"), "abc "),
        (("abc def!", "bc"), "a"),
        (("", "zz"), "abc def"),
    ],
    ids=["first", "complete first", "longer of two", "the longer never comes", "empty"],
)
def test_which_of_several_stop_strings_ends_the_answer(stops, expected):
    for parts in ([b"abc def"], [b"abc", b" d", b"ef"], [bytes([code]) for code in b"abc def"]):
        sent, rest, _ = feed(parts, *stops)
        assert "".join(sent) + rest == expected


@given(BYTES, CUTS, STOPS)
@settings(deadline=None, max_examples=400)
def test_the_text_is_the_same_however_it_is_cut(data, cuts, stops):
    sent, rest, stopped = feed(cut(data, cuts), *stops)
    whole, _ = utf_8_decode(data, "replace")
    expected = one_by_one(whole, stops)
    assert "".join(sent) + rest == (whole if expected is None else expected)
    assert stopped == (expected is not None)
    if stopped:
        assert rest == ""


@given(BYTES, CUTS, STOPS)
@settings(deadline=None, max_examples=300)
def test_held_is_exactly_what_may_begin_a_stop(data, cuts, stops):
    stream, seen, sent = TextStream(stops), b"", ""
    for part in cut(data, cuts):
        seen += part
        sent += stream.feed(part)
        if stream.stopped:
            assert stream.held == 0
            return
        text, _ = utf_8_decode(seen, "replace")
        begun = [
            size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])
        ]
        assert stream.held == max(begun, default=0)
        assert sent == text[: len(text) - stream.held]


@given(st.text(max_size=40), CUTS, st.lists(st.text(min_size=1, max_size=3), max_size=3))
@settings(deadline=None, max_examples=200)
def test_any_text_and_any_stop(text, cuts, stops):
    data = text.encode("utf-8", "replace")
    sent, rest, _ = feed(cut(data, cuts), *stops)
    whole = data.decode()
    expected = one_by_one(whole, stops)
    assert "".join(sent) + rest == (whole if expected is None else expected)


def test_long_repetitive_stops_stay_quick():
    stream = TextStream(["a" * 500 + "b", "a" * 400 + "c"])
    text = "".join(stream.feed(b"a") for _ in range(5000)) + stream.flush()
    assert text == "a" * 5000
