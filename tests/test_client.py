"""The queen's client against a real HTTP server: what it asks for, and what it makes of replies."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from rbee.client import QueenClient
from rbee.errors import (
    BadGateway,
    InvalidRequest,
    JobFinished,
    QueenUnreachable,
    RbeeError,
    ValidationFailed,
)
from rbee.protocol.base import Wire
from rbee.protocol.colony import Narration
from rbee.protocol.jobs import JobState
from rbee.protocol.operations import Infer
from rbee.sse import DONE, ServerEvent, encode_comment, encode_event

T = TypeVar("T")
pytestmark = pytest.mark.anyio
JOB = {"job_id": "job-1", "operation": "infer", "state": "running"}
NARRATION = b'{"at": 1.0, "source": "queen", "message": "hello"}'


class Server:
    """A program that answers as told, by path, and keeps what it was asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        self.names: list[str | None] = []
        self.replies: dict[str, Callable[[], Response]] = {}

    async def answer(self, request: Request) -> Response:
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        self.seen.append((request.method, target, await request.body()))
        self.names.append(request.headers.get("x-rbee-client"))
        return self.replies[request.url.path]()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[QueenClient]:
        route = Route("/{path:path}", self.answer, methods=["GET", "POST", "DELETE"])
        config = uvicorn.Config(
            Starlette(routes=[route]), lifespan="off", log_level="warning", ws="none"
        )
        server = uvicorn.Server(config)
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen()  # before serving, so that the first request waits instead of failing
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server._serve, [sock])
                try:
                    async with QueenClient(f"http://127.0.0.1:{sock.getsockname()[1]}") as client:
                        yield client
                finally:
                    server.should_exit = True


def stream(*parts: bytes) -> Callable[[], Response]:
    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    return lambda: StreamingResponse(body(), media_type="text/event-stream")


def json(body: object, status: int = 200) -> Callable[[], Response]:
    return lambda: JSONResponse(body, status)


async def collect(events: AsyncIterator[T], into: list[T]) -> None:
    async for event in events:
        into.append(event)  # noqa: PERF401 - what came before an exception counts


@pytest.fixture
def queen() -> Server:
    return Server()


async def test_a_submission_is_the_flat_operation(queen: Server) -> None:
    accepted = {"job_id": "job-1", "status": "queued", "stream_url": "/s", "queue_position": 1}
    queen.replies["/v1/jobs"] = json(accepted, 202)
    async with queen.client() as client:
        reply = await client.submit(Infer(model="m", prompt="Grüße", seed=7))
    assert (reply.job_id, reply.status) == ("job-1", JobState.QUEUED)
    (method, path, body) = queen.seen[0]
    assert (method, path) == ("POST", "/v1/jobs")
    assert b'"operation":"infer"' in body
    assert '"prompt":"Grüße"'.encode() in body


async def test_lists_and_filters(queen: Server) -> None:
    queen.replies["/v1/jobs"] = json({"jobs": [JOB | {"of_a_newer_version": 1}]})
    queen.replies["/v1/workers"] = json({"workers": []})
    async with queen.client() as client:
        (job,) = await client.jobs(state="running", limit=3)
        assert await client.workers() == []
    assert job.state is JobState.RUNNING
    assert queen.seen[0][1] == "/v1/jobs?limit=3&state=running"


async def test_the_name_of_a_client_and_what_it_asks_of_one_job(queen: Server) -> None:
    accepted = {"job_id": "job-2", "status": "queued", "stream_url": "/s", "queue_position": 1}
    queen.replies["/v1/jobs/job-1/retry"] = json(accepted, 202)
    queen.replies["/v1/jobs/job-1/decision"] = json(
        {"job_id": "job-1", "state": "queued", "decisions": []}
    )
    queen.replies["/v1/queue"] = json(
        {"depth": {"batch": 1}, "head_wait_seconds": 0.5, "clients": {"a": 3.0}, "jobs": [JOB]}
    )
    queen.replies["/v1/jobs"] = json({"jobs": []})
    async with queen.client() as client, QueenClient(client.url, name="anna") as named:
        assert (await client.retry("job-1")).job_id == "job-2"
        assert (await client.why("job-1")).decisions == []
        waiting = await named.queue()
        assert await client.jobs(dead=True) == []
    assert (waiting.clients, waiting.jobs[0].job_id) == ({"a": 3.0}, "job-1")
    assert queen.names == [None, None, "anna", None]
    assert [(method, path) for method, path, _ in queen.seen] == [
        ("POST", "/v1/jobs/job-1/retry"),
        ("GET", "/v1/jobs/job-1/decision"),
        ("GET", "/v1/queue"),
        ("GET", "/v1/jobs?limit=100&dead=true"),
    ]


async def test_a_stream_that_is_not_followed_may_end_before_the_job(queen: Server) -> None:
    queen.replies["/v1/jobs/job-1/stream"] = stream(encode_event(b"{}", event="queued", id=1))
    seen: list[ServerEvent] = []
    async with queen.client() as client:
        await collect(client.job_stream("job-1", follow=False), seen)
    assert [event.event for event in seen] == ["queued"]
    assert queen.seen[0][1] == "/v1/jobs/job-1/stream?after=0&follow=false"


async def test_the_queens_error_comes_back_as_itself(queen: Server) -> None:
    sent = JobFinished("job-1 has ended", action="Nothing.", state="completed")
    queen.replies["/v1/jobs/job-1"] = json(sent.body(), sent.status)
    async with queen.client() as client:
        with pytest.raises(JobFinished) as caught:
            await client.cancel("job-1")
    assert queen.seen[0][0] == "DELETE"
    assert caught.value.body() == sent.body()


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (lambda: PlainTextResponse("<html>nginx</html>", 502), BadGateway),
        (json({"detail": "no"}, 500), BadGateway),
        (json({"error": {"code": "OF_A_NEWER_VERSION", "message": "x"}}, 418), RbeeError),
        (json({"nonsense": True}), ValidationFailed),
        (lambda: PlainTextResponse("not json"), ValidationFailed),
    ],
)
async def test_replies_that_are_not_a_queens(
    queen: Server, reply: Callable[[], Response], error: type[RbeeError]
) -> None:
    queen.replies["/v1/jobs/job-1"] = reply
    async with queen.client() as client:
        with pytest.raises(error) as caught:
            await client.job("job-1")
    assert caught.value.action


async def test_nobody_listens() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        async with QueenClient(f"http://127.0.0.1:{sock.getsockname()[1]}") as client:
            with pytest.raises(QueenUnreachable, match=client.url):
                await client.health()
            with pytest.raises(QueenUnreachable):
                async for _ in client.job_stream("job-1"):
                    pass


async def test_a_job_stream_ends_at_done_and_starts_where_it_is_told(queen: Server) -> None:
    queen.replies["/v1/jobs/job-1/stream"] = stream(
        encode_comment("keepalive"),
        encode_event(b'{"t":"a","i":0}', event="token", id=4)[:9],
        encode_event(b'{"t":"a","i":0}', event="token", id=4)[9:],
        encode_event(b"{}", event="end", id=5) + DONE + encode_event(b"{}", event="late", id=6),
    )
    async with queen.client() as client:
        events = [event async for event in client.job_stream("job-1", after=3)]
    assert [(e.event, e.id) for e in events if e.data] == [("token", "4"), ("end", "5")]
    assert queen.seen[0][1] == "/v1/jobs/job-1/stream?after=3"


async def test_a_job_stream_that_breaks_off_is_an_error(queen: Server) -> None:
    queen.replies["/v1/jobs/job-1/stream"] = stream(encode_event(b"{}", event="token", id=1))
    got: list[ServerEvent] = []
    async with queen.client() as client:
        with pytest.raises(BadGateway, match="job-1"):
            await collect(client.job_stream("job-1"), got)
    assert [event.id for event in got] == ["1"]


async def test_a_refused_stream_is_the_queens_error(queen: Server) -> None:
    sent = JobFinished("gone")
    queen.replies["/v1/jobs/job-1/stream"] = json(sent.body(), 409)
    async with queen.client() as client:
        with pytest.raises(JobFinished):
            await collect(client.job_stream("job-1"), [])


async def test_colony_events_are_typed_and_unknown_ones_skipped(queen: Server) -> None:
    queen.replies["/v1/events/stream"] = stream(
        encode_event(b"{}", event="of_a_newer_version"),
        encode_comment("heartbeat"),
        encode_event(NARRATION, event="narration"),
    )
    got: list[tuple[str, Wire]] = []
    async with queen.client() as client:
        with pytest.raises(QueenUnreachable):
            await collect(client.events(), got)
    assert got == [("narration", Narration(at=1.0, source="queen", message="hello"))]


async def test_an_id_leads_to_no_other_path(queen: Server) -> None:
    queen.replies["/v1/jobs/../workers/ä b"] = json(JOB)
    async with queen.client() as client:
        assert (await client.job("../workers/ä b")).job_id == "job-1"
        for wrong in ("", ".", "..", "\udcff"):
            for call in (client.job, client.cancel, client.worker):
                with pytest.raises(InvalidRequest):
                    await call(wrong)
            with pytest.raises(InvalidRequest):
                await collect(client.job_stream(wrong), [])
        with pytest.raises(InvalidRequest):
            await client.jobs(state="\udcff")
    assert len(queen.seen) == 1
