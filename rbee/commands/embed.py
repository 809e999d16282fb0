"""`rbee embed`: texts as vectors.

For people one line per text: how many numbers, and the first of them. For programs `--json`.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rbee.client import QueenClient
from rbee.commands.following import Course, Manner, Take, follow, piped
from rbee.commands.following import run as run_job
from rbee.errors import BadGateway, InvalidRequest
from rbee.narration import Narrator
from rbee.output import print_json
from rbee.protocol.base import convert, decode, encode
from rbee.protocol.jobs import EmbedData
from rbee.protocol.operations import Embed
from rbee.sse import ServerEvent

SHOWN = 6


@dataclass(frozen=True)
class Ask:
    """The command's arguments."""

    model: str
    texts: Sequence[str]
    """None at all, or `-`: each line of stdin is one."""
    options: dict[str, Any]
    """Fields of the operation, by their names."""
    manner: Manner


def run(ask: Ask) -> int:
    """Embed, print, return the exit code."""
    fields = {
        "operation": "embed", "model": ask.model, "input": _texts(ask.texts), **ask.options,
    }  # fmt: skip
    operation = convert(fields, Embed)
    encode(operation)  # refuses broken text before a queen is started for it

    async def work(queen: QueenClient, narrator: Narrator) -> None:
        def read(take: Take) -> Awaitable[Course]:
            return follow(operation, queen, narrator, take)

        await tell(read, narrator, as_json=ask.manner.as_json)

    return run_job(ask.manner, work)


async def tell(
    read: Callable[[Take], Awaitable[Course]], narrator: Narrator, *, as_json: bool
) -> None:
    """Print the vectors of a job that is read. Raises the error that it ended with."""
    results: list[EmbedData] = []

    def take(event: ServerEvent) -> None:
        results.append(decode(event.data, EmbedData))

    course = await read(take)
    if not results:
        raise BadGateway(f"{course.job_id} ended without vectors")
    _print(results[-1], as_json=as_json)
    narrator.say(f"↑{results[-1].usage.prompt_tokens} tokens")


def _texts(given: Sequence[str]) -> list[str]:
    texts = list(given)
    if texts == ["-"] or not texts:
        if sys.stdin is None or sys.stdin.isatty():
            raise InvalidRequest("no text", action='Give some: rbee embed --model NAME "…"')
        texts = [line for line in piped("input").split("\n") if line.strip()]
    if not texts or not all(text.strip() for text in texts):
        raise InvalidRequest("a text is empty", action="Give some text to embed.")
    return texts


def _print(found: EmbedData, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    for vector in found.vectors:
        first = " ".join(f"{x:+.4f}" for x in vector[:SHOWN])
        more = " …" if len(vector) > SHOWN else ""
        sys.stdout.write(f"{len(vector)}  {first}{more}\n")
