"""Calls in what models say: every family's form, cut anywhere, and what only looks like a call."""

from __future__ import annotations

import itertools
import json

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from rbee.daemons.queen.tool_calls import CallBegun, CallMore, CallReader, Part, Words, read

NAMES = ("get_weather", "now")
PARIS = '{"city": "Paris {\\"x\\"} }"}'
ONE = [("get_weather", PARIS)]
TWO = [("get_weather", PARIS), ("now", "{}")]

FORMS: list[tuple[str, str, list[tuple[str, str]]]] = [
    (f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}\n</tool_call>', "", ONE),
    (
        (
            f'Let me look.\n<tool_call>{{"name":"get_weather","arguments":{PARIS}}}</tool_call>\n'
            '<tool_call>\n{"arguments": {}, "name": "now"}\n</tool_call>\n'
        ),
        "Let me look.\n",
        TWO,
    ),
    (f'<tool_call>{{"name": "get_weather", "arguments": {PARIS}</tool_call>', "", ONE),
    (
        f'<tool_call>{{"name": "get_weather", "arguments": {json.dumps(PARIS)}}}</tool_call>',
        "",
        ONE,
    ),
    (f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {PARIS}}}]', "", ONE),
    (
        (
            f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {PARIS}, "id": "abcdefghi"}}, '
            '{"name": "now", "arguments": {}}]'
        ),
        "",
        TWO,
    ),
    (f"[TOOL_CALLS]get_weather[ARGS]{PARIS}[TOOL_CALLS]now{{}}", "", TWO),
    (f'<|python_tag|>{{"name": "get_weather", "parameters": {PARIS}}}', "", ONE),
    (
        (
            f'<|python_tag|>{{"type": "function", "name": "get_weather", "parameters": {PARIS}}}; '
            '{"name": "now", "parameters": {}}'
        ),
        "",
        TWO,
    ),
    (f'{{"name": "get_weather", "parameters": {PARIS}}}', "", ONE),
    (f'\n [{{"name": "get_weather", "arguments": {PARIS}}}, {{"name": "now"}}]', "", TWO),
    (
        f'{{"type": "function", "function": {{"name": "get_weather", "arguments": {PARIS}}}}}',
        "",
        ONE,
    ),
]
WORDS = [
    "just words",
    '{"name": "Maya", "arguments": {"for": "bees"}}',
    '{"answer": [1, 2], "name": "now"}',
    "[1, 2, 3]",
    '[{"name": "Maya"}]',
    "a < b <tool_ and [TOOL_ are no marks",
    '<tool_call>{"name": "get_wea',
    "<tool_call> nothing that can be read </tool_call>",
    "<|python_tag|>print(1)",
    '{"name": "now", "arguments": 3}',
    "  \n",
    "{",
]


def told(parts: list[Part]) -> tuple[str, list[tuple[str, str]]]:
    """The words, and name and arguments of each call."""
    text, calls = "", list[tuple[str, str]]()
    for part in parts:
        match part:
            case Words(more):
                text += more
            case CallBegun(index, _, name):
                assert index == len(calls)
                calls.append((name, ""))
            case CallMore(index, more):
                assert index == len(calls) - 1
                calls[index] = (calls[index][0], calls[index][1] + more)
    return text, calls


@pytest.mark.parametrize(("said", "words", "calls"), FORMS)
def test_every_form_is_read(said: str, words: str, calls: list[tuple[str, str]]) -> None:
    text, found = told(read(said, NAMES))
    assert text.rstrip() == words.rstrip()
    assert [(name, json.loads(arguments)) for name, arguments in found] == [
        (name, json.loads(arguments)) for name, arguments in calls
    ]


@pytest.mark.parametrize("said", WORDS)
def test_what_is_no_call_stays_text(said: str) -> None:
    assert told(read(said, NAMES)) == (said, [])


def test_arguments_come_as_they_are_said_and_ids_differ() -> None:
    reader = CallReader(NAMES)
    begun = reader.feed('<tool_call>{"name": "now", "arguments": {"a": ')
    assert [type(part) for part in begun] == [CallBegun, CallMore]
    assert reader.feed('"bc') == [CallMore(0, '"bc')]
    again = reader.feed('"}}</tool_call><tool_call>{"name": "now", "arguments": {')
    ids = [part.id for part in [*begun, *again] if isinstance(part, CallBegun)]
    assert len(set(ids)) == 2
    assert reader.end() == []


def test_words_are_not_held_back_longer_than_a_mark_could_be() -> None:
    reader = CallReader(NAMES)
    assert reader.feed("Bees ") == [Words("Bees ")]
    assert reader.feed("dance <to") == [Words("dance ")]
    assert reader.feed("day") == [Words("<today")]


MIXED = st.lists(
    st.sampled_from([form for form, _, _ in FORMS] + WORDS + ["\n", "}", '"', "<", "]", ";", "é"]),
    max_size=4,
).map("".join)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_same_parts_come_however_the_text_is_cut(data: st.DataObject) -> None:
    said = data.draw(MIXED)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(said)), max_size=12)))
    reader, parts = CallReader(NAMES), list[Part]()
    for start, stop in itertools.pairwise([0, *cuts, len(said)]):
        parts += reader.feed(said[start:stop])
    assert told([*parts, *reader.end()]) == told(read(said, NAMES))
    single, one_by_one = CallReader(NAMES), list[Part]()
    for char in said:
        one_by_one += single.feed(char)
    assert told([*one_by_one, *single.end()]) == told(read(said, NAMES))


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "now\\ud83d", "arguments": {}}</tool_call>',
        '<tool_call>{"arguments": {"a": "\\ud83d"}, "name": "now"}</tool_call>',
        '<tool_call>{"name": "now", "arguments": "{\\"a\\": \\"\\ud83d\\"}"}</tool_call>',
        '<tool_call>{"arguments": "\\ude00", "name": "now\\ud83d"}</tool_call>',
    ],
)
def test_half_a_character_is_replaced_as_no_reply_could_say_it(text: str, step: int) -> None:
    reader = CallReader(NAMES)
    parts = [p for at in range(0, len(text), step) for p in reader.feed(text[at : at + step])]
    said = [p.name if isinstance(p, CallBegun) else p.text for p in [*parts, *reader.end()]]
    assert reader.count == 1
    assert "\ufffd" in "".join(said)
    assert "".join(said).encode()
