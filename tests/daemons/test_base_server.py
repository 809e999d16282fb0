"""The HTTP server of a daemon: it dates its replies, and ends when it is told to."""

from __future__ import annotations

import socket
from email.utils import parsedate_to_datetime

import anyio
import httpx
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rbee.daemons import base
from rbee.daemons.base import Server, listen, make_server, serve, url_of

pytestmark = pytest.mark.anyio
LIMIT = 20.0


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await Response("here")(scope, receive, send)


async def answer(sock: socket.socket) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=LIMIT) as http:
        return await http.get(url_of(sock))


@pytest.fixture
def server() -> Server:
    return make_server(app)


async def test_replies_have_a_date_that_goes_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "DATE_EVERY", 0.01)
    with anyio.fail_after(LIMIT), listen("127.0.0.1", 0) as sock:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve, server, sock)
            first = parsedate_to_datetime((await answer(sock)).headers["date"])
            while parsedate_to_datetime((await answer(sock)).headers["date"]) == first:
                pass
            server.stop()


async def test_it_is_told_to_stop_before_it_began_and_while_it_waits(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "DATE_EVERY", 10 * LIMIT)
    with anyio.fail_after(LIMIT), listen("127.0.0.1", 0) as sock:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve, server, sock)
            assert (await answer(sock)).text == "here"
            server.stop()
    early = make_server(app)
    early.stop()
    with anyio.fail_after(LIMIT), listen("127.0.0.1", 0) as sock:
        await serve(early, sock)
