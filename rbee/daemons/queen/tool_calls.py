"""Calls of functions in what a model says, whatever form its family says them in.

Owns the reading only: text goes in as it comes, and out come words for people and calls, in parts,
the same ones however the text was cut. Knows no wire format; what a call looks like to a client is
that one's dialect. Never asks which model speaks: the marks tell.

    <tool_call>{"name": …, "arguments": {…}}</tool_call>      Hermes, Qwen; one after the other
    [TOOL_CALLS] [{"name": …, "arguments": {…}}, …]           Mistral
    [TOOL_CALLS]name[ARGS]{…}                                 Mistral, from its 11th format on
    <|python_tag|>{"name": …, "parameters": {…}}              Llama 3; `;` between several
    {"name": …, "parameters": {…}}                            no mark: of an offered function,
                                                              and nothing but calls
A call that cannot be read, or that a limit cut before its name was whole, stays text. Not read:
`<|python_tag|>` with Python instead of JSON, and forms in XML or Python (Qwen3-Coder, Llama 4).
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeAlias

from rbee.daemons.queen.tool_text import KEYS, STRING, Scan, called, overlap, unquoted

MARKS = ("<tool_call>", "[TOOL_CALLS]", "<|python_tag|>")
_ENDS = ("</tool_call>",)
_LONGEST_NAME = 64
_LONGEST_HELD = 64 << 10
"""Characters of an object that may still turn out to be a call."""
_HEAD = re.compile(
    rf'\s*\{{\s*(?:"(?:id|type)"\s*:\s*{STRING}\s*,\s*)*"name"\s*:\s*({STRING})\s*,\s*'
    rf'(?:"(?:id|type)"\s*:\s*{STRING}\s*,\s*)*"(?:arguments|parameters)"\s*:\s*(?=[{{"])',
    re.DOTALL,
)
"""A call up to its arguments, when the name comes first, as it does in all these forms."""
_FIRST_KEY = re.compile(rf"\s*\{{\s*({STRING})\s*:", re.DOTALL)
_NAMED = re.compile(rf'\s*\{{\s*"name"\s*:\s*({STRING})\s*[,}}]', re.DOTALL)
_PLAIN_NAME = re.compile(r"\s*([A-Za-z0-9_.-]{1,64})\s*(?:\[CALL_ID\]\s*[A-Za-z0-9]+\s*)?"
                         r"(?:\[ARGS\])?\s*(?=\{)")  # fmt: skip


@dataclass(frozen=True)
class Words:
    """Text of the answer."""

    text: str


@dataclass(frozen=True)
class CallBegun:
    """A call; its arguments follow. `index` counts from 0 within the answer."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class CallMore:
    """More of a call's arguments: JSON text."""

    index: int
    text: str


Part: TypeAlias = Words | CallBegun | CallMore


def new_id() -> str:
    """Of a call, in the form OpenAI's have."""
    return f"call_{secrets.token_hex(12)}"


class CallReader:
    """Of one answer. `names`: the functions that were offered."""

    def __init__(self, names: Collection[str], make_id: Callable[[], str] = new_id) -> None:
        self.count = 0
        """Calls so far."""
        self._names = frozenset(names)
        self._make_id = make_id
        self._rest = ""
        self._step: Callable[[], bool] = self._start
        self._mark = ""
        """What the call that is read began with; empty: nothing."""
        self._listed = False
        self._out: list[Part] = []
        self._scan = Scan()
        self._bare = self._spoken = False

    def feed(self, text: str) -> list[Part]:
        """What is certain after this text."""
        self._rest += text
        while self._rest and self._step():
            pass
        return self._taken()

    def end(self) -> list[Part]:
        """What is left when the answer has ended."""
        if self._step in (self._start, self._words):
            self._say(self._rest)
        elif self._step == self._between:
            left = self._rest.strip()
            if left and not any(end.startswith(left) for end in _ENDS):
                self._say(self._rest)
        elif self._step == self._call:
            if not self.count:  # behind others, what was cut is the beginning of one more
                self._say(self._mark + self._rest)
        elif self._step == self._text_arguments:
            self._more(unquoted(self._rest + '"'))
        self._rest = ""
        return self._taken()

    # ---- steps: each takes from the rest; False: more must come ---------------------------------

    def _start(self) -> bool:
        """Nothing has been said yet: JSON may be a call without a mark."""
        said = self._rest.lstrip()
        if not said:
            return False
        if said[0] == "{":
            return self._begin("", self._rest)
        if said[0] == "[":
            after = said[1:].lstrip()
            if not after:
                return False
            if after[0] == "{":
                self._listed = True
                return self._begin(self._rest[: len(self._rest) - len(after)], after)
        self._step = self._words
        return True

    def _words(self) -> bool:
        at, mark = min(
            ((at, mark) for mark in MARKS if (at := self._rest.find(mark)) >= 0),
            default=(-1, ""),
        )
        if not mark:
            at = len(self._rest) - max(overlap(self._rest, mark) for mark in MARKS)
        said = self._rest[:at]
        if self._spoken or said.strip():
            self._say(said)
        elif not mark:
            return False  # a blank beginning is part of the answer only if words follow
        self._rest = self._rest[at:]
        return self._begin(mark, self._rest[len(mark) :]) if mark else False

    def _begin(self, mark: str, rest: str) -> bool:
        self._mark, self._rest, self._step = mark, rest, self._call
        self._scan = Scan()
        return True

    def _call(self) -> bool:
        """The beginning of a call, up to its arguments."""
        rest = self._rest
        if self._mark == "[TOOL_CALLS]" and not self._listed:
            said = rest.lstrip()
            if said.startswith("["):
                self._listed = True
                self._mark += rest[: len(rest) - len(said) + 1]
                self._rest = said[1:]
                return True
            if said and said[0] != "{":
                return self._named_call()
        if head := _HEAD.match(rest):
            name = unquoted(head[1])
            if self._known(name):
                self._call_of(name, head.end())
                return True
            return self._no_call()
        if not rest.strip():
            return False
        if not rest.lstrip().startswith("{"):
            return self._no_call()
        first, named = _FIRST_KEY.match(rest), _NAMED.match(rest)
        if first and unquoted(first[1]) not in KEYS:
            return self._no_call()
        if named and not self._known(unquoted(named[1])):
            return self._no_call()
        return self._whole_call()

    def _named_call(self) -> bool:
        """A name, and its arguments as an object."""
        if found := _PLAIN_NAME.match(self._rest):
            self._call_of(found[1], found.end(), bare=True)
            return True
        if len(self._rest) > 2 * _LONGEST_NAME:
            return self._no_call()
        return False

    def _whole_call(self) -> bool:
        """An object in another order: it is looked at when all of it is there."""
        end = self._scan.closed(self._rest)
        if end < 0:
            return self._no_call() if len(self._rest) > _LONGEST_HELD else False
        try:
            found = called(json.loads(self._rest[:end]))
        except (ValueError, RecursionError):
            found = None
        if found is None or not self._known(found[0]):
            return self._no_call()
        self._out.append(CallBegun(self.count, self._make_id(), found[0]))
        self._more(found[1])
        self._rest = self._rest[end:]
        self._ended()
        return True

    def _call_of(self, name: str, length: int, *, bare: bool = False) -> None:
        self._out.append(CallBegun(self.count, self._make_id(), name))
        self._rest = self._rest[length:]
        self._scan, self._bare = Scan(), bare
        text = self._rest[0] == '"'
        self._step = self._text_arguments if text else self._arguments

    def _arguments(self) -> bool:
        """An object, told on as it comes."""
        end = self._scan.closed(self._rest)
        self._scan.moved()
        said = self._rest if end < 0 else self._rest[:end]
        self._more(said)
        self._rest = self._rest[len(said) :]
        if end >= 0:
            self._after_arguments()
        return end >= 0

    def _text_arguments(self) -> bool:
        """JSON as a text: told when it is whole."""
        end = self._scan.unquoted(self._rest)
        if end < 0:
            return False
        self._more(unquoted(self._rest[:end]))
        self._rest = self._rest[end:]
        self._after_arguments()
        return True

    def _after_arguments(self) -> None:
        self._scan = Scan()
        if self._bare:
            self._ended()
        else:
            self._step = self._tail

    def _tail(self) -> bool:
        """What stands between the arguments and the end of the call; models forget its brace."""
        end = self._scan.outside(self._rest, "}<;[")
        if end < 0:
            self._rest = ""
            self._scan.moved()
            return False
        self._rest = self._rest[end + (self._rest[end] == "}") :]
        self._ended()
        return True

    def _ended(self) -> None:
        self.count += 1
        self._step = self._between

    def _between(self) -> bool:
        """After a call: the end of its mark, another call, or words."""
        said = self._rest.lstrip()
        if not said:
            return False
        for mark in (*_ENDS, *MARKS):
            if said.startswith(mark):
                self._rest = said[len(mark) :] if mark in _ENDS else said
                if mark not in _ENDS:
                    self._listed = False
                    return self._begin(mark, said[len(mark) :])
                return True
            if mark.startswith(said):
                return False
        if self._listed and said[0] in ",]":
            self._listed = said[0] == ","
            self._rest = said[1:]
            if self._listed:
                return self._begin(",", said[1:])
            return True
        if said[0] in ";," and self._mark != "<tool_call>":
            self._rest = said[1:]
            return True
        if said[0] == "{" and self._mark != "<tool_call>":
            return self._begin("", said)
        self._step = self._words
        return True

    # ---- what comes out ------------------------------------------------------------------------

    def _known(self, name: str) -> bool:
        """A mark says that it is a call; JSON alone may be an answer."""
        return bool(name) and (name in self._names or self._mark in MARKS)

    def _no_call(self) -> bool:
        self._say(self._mark)
        self._listed = False
        self._step = self._words
        return True

    def _say(self, text: str) -> None:
        if text:
            self._spoken = self._spoken or bool(text.strip())
            self._out.append(Words(text))

    def _more(self, text: str) -> None:
        if text:
            self._out.append(CallMore(self.count, text))

    def _taken(self) -> list[Part]:
        out, self._out = self._out, []
        return _joined(out)


def read(text: str, names: Collection[str]) -> list[Part]:
    """All parts of an answer that has ended."""
    reader = CallReader(names)
    return _joined([*reader.feed(text), *reader.end()])


def _joined(parts: list[Part]) -> list[Part]:
    out: list[Part] = []
    for part in parts:
        last = out[-1] if out else None
        if isinstance(part, Words) and isinstance(last, Words):
            out[-1] = Words(last.text + part.text)
        elif isinstance(part, CallMore) and isinstance(last, CallMore) and last.index == part.index:
            out[-1] = CallMore(part.index, last.text + part.text)
        else:
            out.append(part)
    return out
