"""The client, the sink and the storm with a real worker (of the echo backend)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from bench import load, processes
from bench.client import Request, connect, fetch
from bench.dialects import Ask
from bench.hygiene import Storm
from bench.processes import ServerDied
from bench.servers import Setup
from bench.servers_rbee import Sink, Worker

SETUP = Setup(Path("/nowhere"), slots=2, ctx=4096, threads=1)


@asynccontextmanager
async def echo_worker() -> AsyncIterator[Worker]:
    sink = Sink()
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: sink.serve(task_status=task_status))
        worker = await Worker.start(SETUP, sink.url, backend="echo", kind="echo")
        try:
            yield worker
        finally:
            await worker.stop()
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_answers_together():
    async with echo_worker() as worker:
        asks = [Ask("one two three", 64), Ask("four five", 64)]
        found = await load.run(worker, asks)
        assert [bool(answer.times) for answer in found.answers] == [True, True]
        assert found.tokens >= 5
        assert found.cpu >= 0
        assert all(wait > 0 for wait in found.first_tokens)
        used = processes.memory(worker.pids())
        assert used.rss > 1 << 20


@pytest.mark.anyio
async def test_a_refusal_is_told():
    async with echo_worker() as worker:
        with pytest.raises(load.Wrong, match="status 400"):
            await load.run(worker, [Ask("", 0)])


@pytest.mark.anyio
async def test_events_are_counted_while_they_come():
    async with echo_worker() as worker:
        stream = await connect(worker.host, worker.port)
        stream.expect(2)
        request = worker.request(Ask("one two three four", 64))
        stream.send(request.encode(worker.host, worker.port))
        with anyio.fail_after(30):
            await stream.reached()
            await stream.done()
        assert stream.seen >= 2
        assert len(load.load_of([stream], worker.read).answers[0].times) >= 1


@pytest.mark.anyio
async def test_a_storm_leaves_the_worker_idle():
    async with echo_worker() as worker:
        storm = Storm(worker, requests=60, clients=4, seed=3)
        await storm.run()
        assert storm.tally.ended == 60
        assert not storm.tally.errors
        assert len(storm.tally.counts) >= 1
        assert await storm.settled()
        assert storm.tally.samples[-1].busy == 0


@pytest.mark.anyio
async def test_a_worker_that_died_is_noticed():
    async with echo_worker() as worker:
        worker.process.process.kill()
        with anyio.fail_after(30):
            await worker.process.process.wait()
        with pytest.raises(ServerDied, match="ended with -9"):
            worker.process.check()
        with pytest.raises(ConnectionRefusedError):
            await fetch(worker.host, worker.port, Request("/v1/health", method="GET"))
