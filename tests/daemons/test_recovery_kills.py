"""A queen is killed at any moment, and again: readers see one stream with one end."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.daemons.queen.streams import JobStream
from rbee.protocol.base import decode, encode
from rbee.protocol.jobs import (
    EndData,
    EventType,
    JobState,
)
from tests.daemons.reigns import ENDS, Reign, World, kinds, say

STEPS = st.lists(
    st.sampled_from(["save", "flush", "status", "word", "words", "end", "look", "retire"]),
    max_size=12,
)


@given(first=STEPS, second=STEPS)
@settings(deadline=None, max_examples=40)
def test_whenever_the_queen_is_killed_readers_see_one_stream_with_one_end(
    tmp_path_factory: pytest.TempPathFactory, first: list[str], second: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("reigns")
    anyio.run(_two_deaths, World(folder), first, second)


async def _two_deaths(world: World, first: list[str], second: list[str]) -> None:
    shown: list[tuple[str, bytes]] = []
    async with world.reign() as queen:
        stream = await queen.accept("a")
        shown = await _live(queen, stream, first, shown)
    for steps in (second, []):
        async with world.reign() as queen:
            await queen.recovery.run()
            now = await queen.told("a")
            assert now[: len(shown)] == shown
            info = await queen.state("a")
            ended = bool(ENDS & set(kinds(now)))
            assert ended is (info.finished_at is not None)
            assert ended is not (bool(queen.submitted()))
            assert sum(kind in ENDS for kind in kinds(now)) == ended
            live = queen.streams.live("a")
            numbers = [decode(data, dict[str, Any])["i"] for kind, data in now if kind == "token"]
            assert numbers == list(range(len(numbers)))
            if live is not None:
                assert queen.submitted()[0].tokens_out == len(numbers)
                shown = await _live(queen, live, steps, now)
            else:
                shown = now


async def _live(
    queen: Reign, stream: JobStream, steps: list[str], shown: list[tuple[str, bytes]]
) -> list[tuple[str, bytes]]:
    """One queen's time with the job; returns what a reader has seen of it."""
    for step in steps:
        match step:
            case "save" if stream.tokens and not stream.ended:
                await queen.set_state("a", JobState.RUNNING)
            case "flush":
                queen.journal.flush()
            case "status":
                stream.append(EventType.STATUS, b'{"stage":"x","message":"x"}')
            case "word":
                say(stream, "w")
            case "words":
                say(stream, "several", " words")
            case "end":
                data = EndData(finish_reason="stop", tokens_out=stream.tokens, duration_ms=1)
                stream.append(EventType.END, encode(data))
            case "look":
                shown = list(stream.events)
            case "retire" if stream.ended and queen.streams.live("a") is not None:
                await queen.set_state("a", JobState.COMPLETED, finished_at=queen.clock.wall)
                queen.store.save_stream("a", queen.streams.retire("a"))
                await queen.streams.settle()
                await anyio.lowlevel.checkpoint()
            case _:
                pass
    return shown
