"""Characters and stop strings across token borders, and chat templates: no model needed."""

from __future__ import annotations

import itertools
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rbee.backends.llamacpp.template import ChatTemplate
from rbee.backends.llamacpp.text import TextStream

from rbee.errors import ModelIncompatible, ValidationFailed

MESSAGES = ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi <b>"})


def feed(data: list[bytes], *stops: str) -> tuple[list[str], str, bool]:
    stream = TextStream(stops)
    return [stream.feed(part) for part in data], stream.flush(), stream.stopped


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


def test_the_first_of_several_stop_strings_wins():
    parts, _, stopped = feed([b"abc def"], "def", "c d")
    assert (parts, stopped) == (["ab"], True)


@given(st.text(max_size=40), st.lists(st.integers(0, 160), max_size=8), st.text("ab", max_size=3))
def test_any_cutting_gives_the_same_text(text, cuts, stop):
    data = text.encode()
    borders = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    parts = [data[a:b] for a, b in itertools.pairwise(borders)]
    sent, rest, stopped = feed(parts, *([stop] if stop else []))
    expected, found, _ = text.partition(stop) if stop else (text, "", "")
    assert "".join(sent) + rest == expected
    assert stopped == bool(found)


def test_a_models_own_template():
    template = ChatTemplate(
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
        bos="<s>",
        eos="</s>",
    )
    assert template.stops == ()
    assert template.render(MESSAGES) == "<s>[system]Be kind.</s>[user]Hi <b></s>[assistant]"


def test_without_a_template_chatml_is_used_and_said(caplog):
    with caplog.at_level(logging.WARNING):
        template = ChatTemplate(None, bos="", eos="")
    assert "ChatML" in caplog.text
    assert template.stops == ("<|im_end|>",)
    assert template.render(MESSAGES[1:]) == (
        "<|im_start|>user\nHi <b><|im_end|>\n<|im_start|>assistant\n"
    )


def test_functions_that_templates_expect():
    template = ChatTemplate(
        "{{ strftime_now('%Y') | length }}{{ messages | tojson }}{% for m in messages %}{% break %}"
        "{% endfor %}",
        bos="",
        eos="",
    )
    assert template.render(MESSAGES[1:]) == '4[{"role": "user", "content": "Hi <b>"}]'


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].content + 5 }}",
        "{{ messages[7].content }}",
        "{{ 1 / 0 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_template_that_refuses_or_misbehaves_is_a_validation_error(source):
    with pytest.raises(ValidationFailed):
        ChatTemplate(source, bos="", eos="").render(MESSAGES)


def test_a_template_that_does_not_parse_is_incompatible():
    with pytest.raises(ModelIncompatible):
        ChatTemplate("{% for %}", bos="", eos="")
