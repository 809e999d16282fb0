"""Commands that are written in the prompt of a chat: their names, hints, and how a line is read.

Pure; what a command does belongs to the chat screen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rbee.errors import NotFound


@dataclass(frozen=True)
class Command:
    """`takes`: what may follow the name."""

    name: str
    takes: str
    help: str


COMMANDS = (
    Command("model", "[name]", "choose the model"),
    Command("system", "[text]", "the system prompt of this chat"),
    Command("compare", "[model | off]", "ask another model the same"),
    Command("new", "", "new chat"),
    Command("clear", "", "empty this chat"),
    Command("save", "", "write this chat as markdown"),
    Command("export", "", "write this chat as JSON"),
)
_LINE = re.compile(r"/([A-Za-z]*)(?:[ \t]+([\s\S]*))?\s*\Z")


def read(text: str) -> tuple[Command, str] | None:
    """The command of a text and what follows it; None for what is to be asked.

    `//…` and a path are no commands. Raises NotFound naming those there are.
    """
    found = _LINE.match(text.strip())
    if found is None:
        return None
    for command in COMMANDS:
        if command.name == found[1].lower():
            return command, (found[2] or "").strip()
    known = " ".join(f"/{command.name}" for command in COMMANDS)
    raise NotFound(f"There is no /{found[1]}.", action=f"{known}; // begins a question with /.")


def question(text: str) -> str:
    """What is asked with a text that is no command."""
    text = text.strip()
    return text[1:] if text.startswith("//") else text


def fitting(text: str) -> list[Command]:
    """Commands that what is written may become; none when it is no command."""
    if not text.startswith("/") or "\n" in text:
        return []
    name, gap, _ = text[1:].partition(" ")
    if gap:
        return [command for command in COMMANDS if command.name == name.lower()]
    return [command for command in COMMANDS if command.name.startswith(name.lower())]


def completed(text: str) -> str | None:
    """The text with its command's name written out, as far as it is certain."""
    found, name = fitting(text), text[1:]
    if not found or " " in text:
        return None
    if len(found) == 1:
        return f"/{found[0].name}{' ' if found[0].takes else ''}"
    shared = len(name)
    names = [command.name for command in found]
    while len({one[: shared + 1] for one in names}) == 1:
        shared += 1
    return f"/{names[0][:shared]}"
