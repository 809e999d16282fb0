"""What a chat is made of, without a screen: thoughts, pieces, parameters, commands, exports."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.errors import NotFound, ValidationFailed
from rbee.protocol.base import encode
from rbee.protocol.jobs import MetricsData, StartedData, StatusData, TokenData
from rbee.sse import ServerEvent
from rbee.tui import chat_exports, slash
from rbee.tui.answer import Answer, Phase, usage_line
from rbee.tui.glyphs import UNICODE
from rbee.tui.sampling import Sampling, asking, read, value_text
from rbee.tui.segments import ITEMS, segments
from rbee.tui.talk import Dialogue, Exchange, copied
from rbee.tui.thinking import Parts, apart, clean


def answered(prompt: str, text: str, **more: object) -> Exchange:
    answer = Answer(prompt=prompt, model="m", asked_at=1.0)
    answer.text, answer.phase = [text], Phase.DONE
    for name, value in more.items():
        setattr(answer, name, value)
    return Exchange(prompt, [answer])


def chat(*exchanges: Exchange, **more: object) -> Dialogue:
    return Dialogue(
        id="c-20260101-000000-abcdef", created_at=1.0, exchanges=list(exchanges), **more
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "ended", "parts"),
    [
        ("plain", True, Parts("", "plain")),
        ("<think>a b</think>\n\nc", True, Parts("a b", "c")),
        ("\n <think>\na\n</think><think>b</think>c", True, Parts("a\n\nb", "c")),
        ("<think>never ends", True, Parts("never ends", "", open=True)),
        ("<think>still </th", False, Parts("still", "", open=True)),
        ("<thi", False, Parts("", "", open=True)),
        ("<thi", True, Parts("", "<thi")),
        ("a < b", False, Parts("", "a < b")),
        ("thoughts\n</think>\n\nsaid", True, Parts("thoughts", "said")),
        ("write `</think>` so", True, Parts("", "write `</think>` so")),
        ("```\n</think>\n```", True, Parts("", "```\n</think>\n```")),
        ("see <think>x</think>", True, Parts("", "see <think>x</think>")),
    ],
)
def test_thoughts_are_told_apart(text: str, ended: bool, parts: Parts) -> None:
    assert apart(text, ended=ended) == parts


@given(st.text(st.sampled_from("ab \n"), max_size=30), st.text(st.sampled_from("xy"), min_size=1))
@settings(deadline=None, max_examples=60)
def test_no_tag_is_ever_shown_while_it_comes(thought: str, said: str) -> None:
    text = f"<think>{thought}</think>{said}"
    for end in range(len(text) + 1):
        parts = apart(text[:end], ended=end == len(text))
        assert "<" not in parts.said + parts.thought
        assert said.startswith(parts.said)
    assert apart(text) == Parts(thought.strip(), said)


def test_what_steers_a_terminal_is_taken_out() -> None:
    steering = "a\x1b[31mb\x07\x9b2J\r\nc\td\u202ee\u2028f\ud800g\x00"
    assert clean(steering) == "a[31mb2J\nc\tdefg"
    assert clean("né 🐝 👩‍🚀") == "né 🐝 👩‍🚀"


LINES = st.sampled_from(
    ["text", "- item", "1. item", "  - inner", "", "```", "~~~", "| a | b |", "x" * 900, "\n"]
)


@given(st.lists(LINES, max_size=80).map("\n".join))
@settings(deadline=None, max_examples=100)
def test_a_text_that_grows_is_cut_where_the_whole_one_is(text: str) -> None:
    whole = segments(text)
    assert "".join(whole) == text
    for end in range(0, len(text), max(1, len(text) // 7)):
        part = segments(text[:end])
        assert part[:-1] == whole[: len(part) - 1]


def test_lists_are_cut_and_code_is_not() -> None:
    items = "".join(f"- item {at}\n" for at in range(100))
    assert max(piece.count("\n") for piece in segments(items)) == ITEMS
    assert len(segments(f"```\n{items}```\n" + "word " * 2000)) == 1
    assert len(segments("a paragraph of some words.\n\n" * 300)) == 3


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", "0.2", 0.2),
        ("temperature", " ", None),
        ("top_k", "7", 7),
        ("seed", "4294967295", 4294967295),
        ("stop", r"END, a\,b, \n", ["END", "a,b", "\n"]),
        ("stop", "", []),
        ("system", " be kind ", "be kind"),
    ],
)
def test_parameters_are_read(name: str, text: str, value: object) -> None:
    assert read(name, text) == value


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("temperature", "9", "at most 5"),
        ("temperature", "warm", "a number"),
        ("temperature", "nan", "at least 0|number|finite"),
        ("top_k", "1.5", "a whole number"),
        ("top_p", "-1", "at least 0"),
        ("repetition_penalty", "0", "more than 0"),
        ("max_tokens", "0", "at least 1"),
        ("stop", "a,b,c,d,e", "at most 4"),
        ("system", "x" * 100_001, "at most 100000"),
    ],
)
def test_parameters_have_the_bounds_of_the_protocol(name: str, text: str, reason: str) -> None:
    with pytest.raises(ValidationFailed, match=reason):
        read(name, text)


@given(st.lists(st.text(st.sampled_from("a,\\\n\tn"), min_size=1, max_size=6), max_size=4))
@settings(deadline=None, max_examples=60)
def test_stops_are_written_as_they_are_read(stops: list[str]) -> None:
    assert read("stop", value_text(Sampling(stop=stops), "stop")) == stops


def test_what_is_asked() -> None:
    talk = chat(answered("a?", "<think>hm</think>A."), answered("b?", "B."))
    failed = answered("c?", "", phase=Phase.FAILED)
    last = answered("d?", "")
    talk.exchanges += [failed, last]
    sampling = Sampling(system="be kind", temperature=0.1, stop=["X"])
    asked = asking("m", talk.messages(last), sampling, worker_id="w-01")
    said = [(each.role, each.content) for each in asked.messages or []]
    assert said == [
        ("system", "be kind"),
        ("user", "a?"),
        ("assistant", "A."),
        ("user", "b?"),
        ("assistant", "B."),
        ("user", "d?"),
    ]
    assert (asked.temperature, asked.stop, asked.worker_id, asked.top_p) == (
        0.1,
        ["X"],
        "w-01",
        0.95,
    )


def test_commands_are_read() -> None:
    found = slash.read(" /model smol ")
    assert found is not None
    assert (found[0].name, found[1]) == ("model", "smol")
    assert slash.read("/system two\nlines") == (slash.COMMANDS[1], "two\nlines")
    assert slash.read("/etc/passwd is what?") is None
    assert slash.read("//model") is None
    assert slash.question("//model") == "/model"
    with pytest.raises(NotFound, match="no /foo"):
        slash.read("/foo bar")


@pytest.mark.parametrize(
    ("text", "names", "completed"),
    [
        ("/", 7, "/"),
        ("/s", 2, "/s"),
        ("/c", 2, "/c"),
        ("/m", 1, "/model "),
        ("/n", 1, "/new"),
        ("/model x", 1, None),
        ("/x", 0, None),
        ("hello", 0, None),
    ],
)
def test_commands_are_completed(text: str, names: int, completed: str | None) -> None:
    assert len(slash.fitting(text)) == names
    assert slash.completed(text) == completed


def test_a_curl_command_is_safe_in_a_shell() -> None:
    talk = chat(answered('it\'s `$HOME`; "no" !! \n rm -rf /', "ok"))
    talk.sampling = Sampling(system="s'", max_tokens=5)
    first = talk.exchanges[0]
    command = chat_exports.curl("http://127.0.0.1:8500/", talk, first, first.answer)
    assert "\n" not in command
    words = shlex.split(command)
    assert words[:3] == ["curl", "-sN", "http://127.0.0.1:8500/v1/chat/completions"]
    body = json.loads(words[-1])
    assert body["messages"][1]["content"] == first.prompt
    assert (body["temperature"], body["max_tokens"], body["stream"]) == (0.7, 5, True)
    keyed = chat_exports.curl("http://hive:8500", talk, first, first.answer, keyed=True)
    assert '-H "Authorization: Bearer $RBEE_API_KEY"' in keyed


def test_the_last_block_of_code() -> None:
    text = "a\n```python\nx = 1\n```\nb\n~~~\ny\n```\n~~~\nend"
    assert chat_exports.last_code(text) == "y\n```"
    assert chat_exports.last_code("```sh\nls") == "ls"
    assert chat_exports.last_code("no `code`") is None


def test_files_replace_nothing_and_say_where(tmp_path: Path) -> None:
    talk = chat(answered("Why/../do bees?", "<think>x</think>Because.", hive="mule", device="cpu"))
    text = chat_exports.markdown(talk)
    assert "## Question\n\nWhy/../do bees?" in text
    assert "## m on mule cpu\n\nBecause." in text
    first = chat_exports.write_new(tmp_path, talk.title, "md", text, 0.0)
    again = chat_exports.write_new(tmp_path, talk.title, "md", "other", 0.0)
    assert [first.name, again.name] == [
        "rbee-1970-01-01-why-do-bees.md",
        "rbee-1970-01-01-why-do-bees-2.md",
    ]
    assert first.read_text() == text
    assert again.stat().st_mode & 0o777 == 0o600
    told = json.loads(chat_exports.as_json(talk))
    assert told["messages"][1] == {"role": "assistant", "content": "Because."}


def test_a_copy_is_a_conversation_of_its_own() -> None:
    talk = chat(answered("a", "b"))
    twin = copied(talk, "c-20260101-000000-000001", "was\x1b")
    twin.exchanges[0].answers[0].text.append("more")
    assert (talk.exchanges[0].answer.body(), twin.title) == ("b", "was")


def test_a_stream_that_was_resumed_says_so() -> None:
    answer = Answer(prompt="why?", model="m", asked_at=0.0)
    start = {"hive": "mule", "model": "m", "device": "cpu", "quant": None, "queued_ms": 0}
    steps = [
        StartedData(worker_id="w-1", **start),
        TokenData(t="half", i=0),
        StatusData(stage="resuming", message="w-1 was lost", progress=None),
        StartedData(worker_id="w-2", attempt=2, tokens_before=1, **start),
        TokenData(t=" and\x1b half", i=1),
        MetricsData(
            tokens_per_second=5.0, ttft_ms=9.0, prompt_tokens=3, cached_tokens=0, resumed=1
        ),
    ]
    names = ["started", "token", "status", "started", "token", "metrics"]
    lines: list[str] = []
    for at, (name, data) in enumerate(zip(names, steps, strict=True), 1):
        answer.apply(ServerEvent(encode(data).decode(), name, str(at)), float(at))
        lines.append(usage_line(answer, UNICODE, float(at)))
    assert "w-1 was lost" in lines[2]
    assert "resumed after a lost worker" in lines[5]
    assert (answer.body(), answer.seen, answer.worker_id) == ("half and half", 6, "w-2")


def test_two_that_failed_need_not_be_chosen_from() -> None:
    talk = chat(answered("a", "b"))
    assert not talk.comparing
    both = [Answer(prompt="a", model=model, asked_at=0.0) for model in ("m", "n")]
    talk.exchanges.append(Exchange("a", both, chosen=None))
    assert talk.comparing
    both[0].fail(NotFound("gone"), 1.0)
    assert talk.comparing
    both[1].fail(NotFound("gone"), 1.0)
    assert not talk.comparing
