"""What a worker sends of an answer, and what it says while there is nothing of it."""

from __future__ import annotations

import anyio
import pytest

from rbee.backend_api import Done, Piece, Prefill
from rbee.daemons.worker.answer import Pulse, Streamed
from rbee.daemons.worker.running import Running


@pytest.mark.anyio
async def test_no_comment_waits_behind_the_end_for_a_slow_client():
    sent, room = [], anyio.Event()

    async def send(message) -> None:
        await room.wait()
        sent.append(message)

    reply = Streamed(send)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reply.say, [Piece("a"), Done("stop", 1, 1)])
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(reply.alive)
        await anyio.wait_all_tasks_blocked()
        room.set()
    ends = [message for message in sent if message.get("more_body") is False]
    assert ends == sent[1:]
    await reply.say([Piece("more")])
    await reply.alive()
    assert sent[-1]["body"].startswith(b":")


@pytest.mark.anyio
async def test_a_comment_comes_only_when_the_backend_got_on():
    sent: list[bytes] = []
    others = 0

    async def send(message) -> None:
        sent.append(message.get("body", b""))

    async def beats(count: int = 1) -> bytes:
        sent.clear()
        for _ in range(count):
            await pulse.beat()
        return b"".join(sent)

    running = Running("r", lambda _: None, lambda: others)
    reply = Streamed(send)
    pulse = Pulse(reply, running)
    assert await beats(3) == b""  # it waits for its turn, and the others hang
    others += 1
    assert await beats(3) == b": prefill\n\n"
    running.put(Prefill(16, 64))
    await reply.say(await running.take())
    assert await beats(3) == b": prefill 16/64\n\n"
    others += 1
    assert await beats(3) == b""  # that its neighbours get on is no sign of its own life
    running.put(Piece("a"))
    await reply.say(await running.take())
    assert await beats(3) == b""  # something was said
    running.put(Piece(""))
    await reply.say(await running.take())
    assert await beats(3) == b": keepalive\n\n"
    assert await beats(3) == b""


@pytest.mark.anyio
async def test_ids_are_told_with_the_text_that_they_complete():
    sent: list[bytes] = []

    async def send(message) -> None:
        sent.append(message.get("body", b""))

    reply = Streamed(send, ids=True, index=7)
    pieces = [Piece("", ids=(1,)), Piece("é", ids=(2,)), Piece("a", ids=(3,)), Piece("", ids=(4,))]
    await reply.say(pieces)
    await reply.say([Piece("b", tokens=0), Done("length", 1, 11)])
    assert [line for line in b"".join(sent).decode().split("\n\n") if 'token"' in line] == [
        'data: {"token":"é","index":8,"ids":[1,2]}',
        'data: {"token":"a","index":9,"ids":[3]}',
        'data: {"token":"b","index":11,"ids":[4]}',
    ]
