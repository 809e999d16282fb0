"""Templates for models that came without one.

Owns a short template per way of marking turns, and the choice among them: by the markers that the
model's vocabulary has as single tokens, else by the model's name. A guess, and said to be one.
The text begins without the model's first token: tokenizing adds it where the vocabulary wants it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_TEXT = "{{ m.content | trim }}"
_NO_SYSTEM = "{{ raise_exception('no system role') }}"


@dataclass(frozen=True)
class Fallback:
    """A way of marking turns; `TEXT` in a turn stands for what was said."""

    name: str
    markers: tuple[str, ...]
    """Where all of them are single tokens, the model was trained with these turns."""
    system: str
    """Empty: there is no such turn."""
    user: str
    assistant: str
    answer: str
    """What the model continues."""
    stops: tuple[str, ...]
    """The end of a turn, for a model that writes it out instead of giving an end token."""

    @property
    def source(self) -> str:
        """The template."""
        system, user, assistant = (
            turn.replace("TEXT", _TEXT) for turn in (self.system, self.user, self.assistant)
        )
        return (
            "{% for m in messages %}"
            f"{{% if m.role == 'system' %}}{system or _NO_SYSTEM}"
            f"{{% elif m.role == 'assistant' %}}{assistant}"
            f"{{% else %}}{user}{{% endif %}}{{% endfor %}}"
            f"{{% if add_generation_prompt %}}{self.answer}{{% endif %}}"
        )


FALLBACKS = (
    Fallback(
        "chatml",
        markers=("<|im_start|>", "<|im_end|>"),
        system="<|im_start|>system\nTEXT<|im_end|>\n",
        user="<|im_start|>user\nTEXT<|im_end|>\n",
        assistant="<|im_start|>assistant\nTEXT<|im_end|>\n",
        answer="<|im_start|>assistant\n",
        stops=("<|im_end|>",),
    ),
    Fallback(
        "llama3",
        markers=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        system="<|start_header_id|>system<|end_header_id|>\n\nTEXT<|eot_id|>",
        user="<|start_header_id|>user<|end_header_id|>\n\nTEXT<|eot_id|>",
        assistant="<|start_header_id|>assistant<|end_header_id|>\n\nTEXT<|eot_id|>",
        answer="<|start_header_id|>assistant<|end_header_id|>\n\n",
        stops=("<|eot_id|>",),
    ),
    Fallback(
        "gemma",
        markers=("<start_of_turn>", "<end_of_turn>"),
        system="",
        user="<start_of_turn>user\nTEXT<end_of_turn>\n",
        assistant="<start_of_turn>model\nTEXT<end_of_turn>\n",
        answer="<start_of_turn>model\n",
        stops=("<end_of_turn>",),
    ),
    Fallback(
        "granite",
        markers=("<|start_of_role|>", "<|end_of_role|>"),
        system="<|start_of_role|>system<|end_of_role|>TEXT<|end_of_text|>\n",
        user="<|start_of_role|>user<|end_of_role|>TEXT<|end_of_text|>\n",
        assistant="<|start_of_role|>assistant<|end_of_role|>TEXT<|end_of_text|>\n",
        answer="<|start_of_role|>assistant<|end_of_role|>",
        stops=("<|end_of_text|>",),
    ),
    Fallback(
        "command-r",
        markers=("<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>"),
        system="<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>TEXT<|END_OF_TURN_TOKEN|>",
        user="<|START_OF_TURN_TOKEN|><|USER_TOKEN|>TEXT<|END_OF_TURN_TOKEN|>",
        assistant="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>TEXT<|END_OF_TURN_TOKEN|>",
        answer="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        stops=("<|END_OF_TURN_TOKEN|>",),
    ),
    Fallback(
        "deepseek",
        markers=("<｜User｜>", "<｜Assistant｜>"),
        system="TEXT",
        user="<｜User｜>TEXT",
        assistant="<｜Assistant｜>TEXT{{ eos_token }}",
        answer="<｜Assistant｜>",
        stops=("<｜User｜>",),
    ),
    Fallback(
        "harmony",
        markers=("<|start|>", "<|message|>", "<|channel|>"),
        system="<|start|>developer<|message|># Instructions\n\nTEXT<|end|>",
        user="<|start|>user<|message|>TEXT<|end|>",
        assistant="<|start|>assistant<|channel|>final<|message|>TEXT<|end|>",
        answer="<|start|>assistant<|channel|>final<|message|>",
        stops=("<|end|>", "<|return|>"),
    ),
    Fallback(
        "phi",
        markers=("<|user|>", "<|assistant|>", "<|end|>"),
        system="<|system|>\nTEXT<|end|>\n",
        user="<|user|>\nTEXT<|end|>\n",
        assistant="<|assistant|>\nTEXT<|end|>\n",
        answer="<|assistant|>\n",
        stops=("<|end|>",),
    ),
    Fallback(
        "mistral",
        markers=("[INST]", "[SYSTEM_PROMPT]"),
        system="[SYSTEM_PROMPT]TEXT[/SYSTEM_PROMPT]",
        user="[INST]TEXT[/INST]",
        assistant="TEXT{{ eos_token }}",
        answer="",
        stops=("[INST]",),
    ),
    Fallback(
        "inst",
        markers=("[INST]", "[/INST]"),
        system="",
        user="[INST] TEXT [/INST]",
        assistant=" TEXT{{ eos_token }}",
        answer="",
        stops=("[INST]",),
    ),
)
PLAIN = Fallback(
    "plain",
    markers=(),
    system="TEXT\n\n",
    user="### Instruction:\nTEXT\n\n",
    assistant="### Response:\nTEXT\n\n",
    answer="### Response:\n",
    stops=("### Instruction:",),
)
_BY_NAME = {fallback.name: fallback for fallback in (*FALLBACKS, PLAIN)}
_FAMILIES = (
    ("mistral-v7", "mistral"),
    ("mistral", "inst"),
    ("mixtral", "inst"),
    ("llama-2", "inst"),
    ("llama 2", "inst"),
    ("llama v2", "inst"),
    ("codellama", "inst"),
)


def choose(has_token: Callable[[str], bool], name: str = "") -> Fallback:
    """The likeliest form for a model whose vocabulary has these tokens and that is called so.

    `name` may be the name of a form, or anything people call the model.
    """
    name = name.strip().lower()
    if name in _BY_NAME:
        return _BY_NAME[name]
    for fallback in FALLBACKS:
        if all(map(has_token, fallback.markers)):
            return fallback
    for part, form in _FAMILIES:
        if part in name:
            return _BY_NAME[form]
    return PLAIN
