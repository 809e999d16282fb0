"""A GGUF file with another chat template: real weights that take part in another form of talk."""

from __future__ import annotations

import struct
from pathlib import Path

HERMES = (
    "{% if tools %}<|im_start|>system\nYou may call functions:\n{% for tool in tools %}"
    "{{ tool | tojson }}\n{% endfor %}Call one as <tool_call>{\"name\": …, \"arguments\": …}"
    "</tool_call>.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)  # fmt: skip
"""Tells of tools, and of calls in the form that Hermes and Qwen were trained on."""
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_KEY = b"tokenizer.chat_template"


class _Walk:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 4

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self) -> bytes:
        size = self.number("<Q")
        self.at += size
        return self.data[self.at - size : self.at]

    def value(self, kind: int) -> None:
        if kind == _STRING:
            self.text()
        elif kind == _ARRAY:
            inner, count = self.number("<I"), self.number("<Q")
            for _ in range(count):
                self.value(inner)
        else:
            self.at += _SIZES[kind]


def retemplated(source: Path, target: Path, template: str) -> Path:
    """Copy a model; alignment is GGUF's default, 32 bytes."""
    data = source.read_bytes()
    walk = _Walk(data)
    walk.number("<I")
    tensors, pairs = walk.number("<Q"), walk.number("<Q")
    place: tuple[int, int] | None = None
    for _ in range(pairs):
        key = walk.text()
        kind = walk.number("<I")
        begin = walk.at
        walk.value(kind)
        if key == _KEY:
            place = begin, walk.at
    for _ in range(tensors):
        walk.text()
        dimensions = walk.number("<I")
        walk.at += 8 * dimensions + 4 + 8
    assert place is not None
    raw = template.encode()
    new = struct.pack("<Q", len(raw)) + raw
    header = data[: place[0]] + new + data[place[1] : walk.at]
    weights = data[walk.at + -walk.at % 32 :]
    target.write_bytes(header + b"\0" * (-len(header) % 32) + weights)
    return target
