"""What happens when something dies: a worker in mid-answer, the queen herself (P13, P14, P15).

Real workers (of the echo backend) on the queen's own hive; what is killed is killed with SIGKILL.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import psutil

from bench import processes
from bench.client import Stream, connect
from bench.dialects import read_openai
from bench.http_bytes import BadReply, Reply
from bench.load import Wrong
from bench.queen.book import QUEEN
from bench.queen.clients import post
from bench.queen.context import Context
from bench.queen.programs import HOST, Queen

WORKERS = 2
WORDS, DELAY = 60, 50
"""Of each answer, and milliseconds between two of them."""
STREAMS = 20
GOING = 5
"""Events a stream has given before something is killed."""
GONE_LIMIT = 60.0
SILENCE = 90.0


@asynccontextmanager
async def echo_queen(**extra: str) -> AsyncGenerator[Queen]:
    """A queen with a hive of her own and two echo workers."""
    queen = await Queen.start(RBEE_QUEEN_LOCAL_HIVE="true", RBEE_HIVE_NAME="bench", **extra)
    try:
        await manned(queen)
        yield queen
    finally:
        await queen.stop()


async def manned(queen: Queen) -> None:
    """As many workers ready as there should be. Raises Wrong."""
    there = (await queen.get("/v1/workers"))["workers"]
    for _ in range(WORKERS - sum(w["state"] in ("idle", "busy", "loading") for w in there)):
        await queen.post("/v1/jobs", {"operation": "worker_spawn", "model": "echo", "pin": True})
    await queen.workers(WORKERS)


async def dead(context: Context) -> None:
    """SIGKILL to the worker of a stream: from then to its next words out of another one."""
    await _resumed(context, "dead", signal.SIGKILL)


async def silent(context: Context) -> None:
    """SIGSTOP: the worker is there and says nothing."""
    await _resumed(context, "silent", signal.SIGSTOP)


async def _resumed(context: Context, case: str, number: signal.Signals) -> None:
    async with echo_queen() as queen:
        for _ in range(context.size.deaths):
            await manned(queen)
            (stream,) = await begun(queen, 1)
            pid = await worker_pid(queen, worker_of(stream))
            struck = time.perf_counter()
            os.kill(pid, number)
            try:
                with anyio.fail_after(SILENCE):
                    await stream.done()
                if (why := lost(stream)) is not None:
                    raise Wrong(f"the stream did not go on: {why}")
                context.book.add(case, QUEEN, {"seconds": gap_after(stream, struck)})
            finally:
                stream.close()
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


async def lost_streams(context: Context) -> None:
    """20 streams on two workers, some waiting; one worker is killed."""
    async with echo_queen() as queen:
        for _ in range(context.size.deaths):
            await manned(queen)
            opened = await begun(queen, STREAMS)
            try:
                victim = worker_of(next(stream for stream in opened if stream.seen))
                os.kill(await worker_pid(queen, victim), signal.SIGKILL)
                for stream in opened:
                    await stream.done()
            finally:
                for stream in opened:
                    stream.close()
            reasons = [why for stream in opened if (why := lost(stream)) is not None]
            if reasons:
                context.book.note(f"A stream was lost ({reasons[0][:160]}).")
            context.book.add("lost", QUEEN, {"streams": len(reasons)})


async def tree(context: Context) -> None:
    """SIGKILL to a queen whose workers compute: until nothing of hers runs."""
    for _ in range(context.size.deaths):
        async with echo_queen() as queen:
            opened = await begun(queen, WORKERS)
            below = processes.tree(queen.pid)
            struck = time.perf_counter()
            os.kill(queen.pid, signal.SIGKILL)
            try:
                with anyio.fail_after(GONE_LIMIT):
                    while any(map(lives, below)):  # noqa: ASYNC110 - processes tell nobody
                        await anyio.sleep(0.01)
            except TimeoutError as exc:
                left = [process.pid for process in below if lives(process)]
                raise Wrong(
                    f"{len(left)} of {len(below)} still run after {GONE_LIMIT:g} s"
                ) from exc
            finally:
                for stream in opened:
                    stream.close()
            context.book.add("tree", QUEEN, {
                "seconds": time.perf_counter() - struck, "processes": len(below),
            })  # fmt: skip


async def begun(queen: Queen, count: int) -> list[Stream]:
    """So many streams; returned when the first of them has given some words."""
    opened = [await connect(HOST, queen.port) for _ in range(count)]
    body = {
        "model": "echo",
        "messages": [{"role": "user", "content": f"@delay={DELAY} @repeat={WORDS} tick"}],
        "max_tokens": WORDS,
        "stream": True,
    }
    request = post("/v1/chat/completions", json.dumps(body).encode(), HOST)
    for stream in opened:
        stream.expect(GOING)
        stream.send(request)
    with anyio.fail_after(30):
        await opened[0].reached()
    return opened


def worker_of(stream: Stream) -> str:
    """Who the reply says serves it. Raises Wrong."""
    head = b"".join(data for _, data in stream.chunks).partition(b"\r\n\r\n")[0]
    for line in head.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "x-rbee-worker":
            return value.strip()
    raise Wrong(f"no worker is named in {head[:200]!r}")


async def worker_pid(queen: Queen, worker_id: str) -> int:
    """Of the worker's process."""
    workers: list[dict[str, Any]] = (await queen.get("/v1/workers"))["workers"]
    return next(int(w["pid"]) for w in workers if w["worker_id"] == worker_id)


def lost(stream: Stream) -> str | None:
    """Why the answer is not whole; None when it is."""
    try:
        reply = stream.reply()
    except BadReply as exc:
        return str(exc)
    if reply.status != 200:
        return f"status {reply.status}: {reply.body[:160]!r}"
    said = text_of(reply)
    if said.split() != ["tick"] * WORDS:
        return f"{len(said.split())} of {WORDS} words; it ended with {reply.events[-2:]}"
    return None


def text_of(reply: Reply) -> str:
    """All text of a streamed chat completion; an error in it counts as its end."""
    parts: list[str] = []
    for event in reply.events:
        if event.data == b"[DONE]":
            break
        value = json.loads(event.data)
        if read_openai(value)[0]:
            parts.append(value["choices"][0]["delta"]["content"])
    return "".join(parts)


def gap_after(stream: Stream, struck: float) -> float:
    """Seconds from the blow to the end of the longest silence that ended after it."""
    times = [struck, *(at for at, data in stream.chunks if at > struck and b'"content"' in data)]
    longest = max(range(1, len(times)), key=lambda n: times[n] - times[n - 1], default=0)
    if not longest:
        raise Wrong("nothing came after the worker was struck")
    return times[longest] - struck


def lives(process: psutil.Process) -> bool:
    """Whether it runs; one whose end nobody has asked for yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
