"""Many of everything: jobs that wait, streams that are open, workers that report (P9, P10, P16)."""

from __future__ import annotations

import json
import resource
from contextlib import AsyncExitStack

import anyio

from bench.client import Stream, connect
from bench.fake_hive import MODEL
from bench.figures import percentile
from bench.http_bytes import BadReply
from bench.load import Wrong
from bench.queen.book import QUEEN
from bench.queen.clients import closed_loop, post
from bench.queen.context import Context
from bench.queen.programs import HOST, Fleet, Queen, StandIn

CLIENTS = 16
FOREVER = "86400"
SPARE_FILES = 200
SLOTS = 50
"""Of each of the workers that very many streams are spread over."""
OPENED_AT_ONCE = 200
OPEN_LIMIT = 300.0
COLONY = (1000, 100)
"""Hives and workers of each that the target speaks of."""


async def admission(context: Context) -> None:
    """POST /v1/jobs while very many wait: the only slot there is answers for ever."""
    size = context.size
    async with AsyncExitStack() as stack:
        queen = await Queen.start(
            RBEE_QUEEN_QUEUE_CAPACITY="1000000", RBEE_WORKER_STALL_TIMEOUT=FOREVER
        )
        stack.push_async_callback(queen.stop)
        direct = await StandIn.start(Fleet(slots=1), queen)
        stack.push_async_callback(direct.stop)
        await queen.workers(1)
        await direct.pace(hold=True)
        body = {"operation": "infer", "model": MODEL, "prompt": "Say one word.", "max_tokens": 8}
        request = post("/v1/jobs", json.dumps(body).encode(), HOST)
        await closed_loop(HOST, queen.port, lambda _: request, count=size.queued + 1,
                          clients=CLIENTS)  # fmt: skip
        waiting = (await queen.get("/v1/queue"))["depth"]
        if sum(waiting.values()) != size.queued:
            raise Wrong(f"{waiting} wait, not {size.queued}")
        context.book.note(f"{size.queued} jobs waited at the start of *admission*.")
        for _ in range(context.rounds):
            one = await closed_loop(HOST, queen.port, lambda _: request,
                                    count=size.latencies, clients=1)  # fmt: skip
            before = queen.cpu()
            many = await closed_loop(HOST, queen.port, lambda _: request,
                                     count=size.admitted, clients=CLIENTS)  # fmt: skip
            cpu = queen.cpu() - before
            context.book.add("admission", QUEEN, {
                "p50": percentile(one.latencies, 0.5) * 1000,
                "p95": percentile(one.latencies, 0.95) * 1000,
                "p95_many": percentile(many.latencies, 0.95) * 1000,
                "rate": many.rate,
                "cpu": cpu / size.admitted * 1e6,
            })  # fmt: skip


async def streams(context: Context) -> None:
    """So many answers that have begun and not ended; then all go on to their end."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    for wanted in context.size.streams:
        # The queen has two connections for each: her caller's and the worker's.
        count = min(wanted, (files - SPARE_FILES) // 2)
        if count < wanted:
            context.book.note(f"{count} streams instead of {wanted}: a process may open no more"
                              " files here.")  # fmt: skip
        await _streams(context, f"streams-{wanted}", count)


async def _streams(context: Context, case: str, count: int) -> None:
    async with AsyncExitStack() as stack:
        queen = await Queen.start(RBEE_WORKER_STALL_TIMEOUT=FOREVER)
        stack.push_async_callback(queen.stop)
        workers = -(-count // SLOTS)
        direct = await StandIn.start(Fleet(workers=workers, slots=SLOTS), queen)
        stack.push_async_callback(direct.stop)
        await queen.workers(workers)
        request = queen.chat(3, stream=True)
        await closed_loop(HOST, queen.port, lambda _: request, count=500, clients=CLIENTS)
        await direct.pace(hold=True)
        idle, before = queen.rss(), queen.cpu()
        opened: list[Stream] = []
        try:
            with anyio.fail_after(OPEN_LIMIT):
                while len(opened) < count:
                    some = min(OPENED_AT_ONCE, count - len(opened))
                    fresh = [await connect(HOST, queen.port) for _ in range(some)]
                    opened += fresh
                    for stream in fresh:
                        stream.expect(1)
                        stream.send(request)
                    for stream in fresh:
                        await stream.reached()
            full = queen.rss()
            held = (await direct.get("/fake/stats"))["busy"]
            await direct.pace()
            for stream in opened:
                await stream.done()
            cpu = queen.cpu() - before
        finally:
            for stream in opened:
                stream.close()
        context.book.add(case, QUEEN, {
            "open": held,
            "unanswered": count - sum(map(_whole, opened)),
            "memory": (full - idle) / count / 1000,
            "cpu": cpu / count * 1e6,
        })  # fmt: skip


def _whole(stream: Stream) -> bool:
    try:
        reply = stream.reply()
    except BadReply:
        return False
    return reply.status == 200 and bool(reply.events) and reply.events[-1].data == b"[DONE]"


async def colony(context: Context) -> None:
    """Hives and workers that only report: what listening to them takes of one core."""
    size = context.size
    async with AsyncExitStack() as stack:
        queen = await Queen.start()
        stack.push_async_callback(queen.stop)
        direct = await StandIn.start(Fleet(hives=size.hives, workers=size.workers, slots=8), queen)
        stack.push_async_callback(direct.stop)
        await queen.hives(size.hives)
        await queen.workers(size.hives * size.workers)
        await anyio.sleep(3 * Fleet.telemetry)  # the first telemetry of each tells everything
        for _ in range(context.rounds):
            before, told = queen.cpu(), (await direct.get("/fake/stats"))["told"]
            began = anyio.current_time()
            await anyio.sleep(size.listened)
            cpu, seconds = queen.cpu() - before, anyio.current_time() - began
            told = (await direct.get("/fake/stats"))["told"] - told
            context.book.add("colony", QUEEN, {
                "share": cpu / seconds * 100,
                "message": cpu / told * 1e6,
                "scaled": cpu / seconds * 100 * COLONY[0] / size.hives,
                "rate": told / seconds,
                "memory": queen.rss() / size.hives / size.workers / 1000,
            })  # fmt: skip
    if (size.hives, size.workers) != COLONY:
        context.book.note(
            f"*colony* is {size.hives} hives of {size.workers} workers; what {COLONY[0]} of"
            f" {COLONY[1]} take is reckoned from what these do, not measured."
        )
