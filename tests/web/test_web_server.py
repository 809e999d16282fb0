"""`rbee web` as a program: what it answers to whom, what it starts, and that all of it ends."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import httpx
import psutil
import pytest

from rbee.web import tab
from tests.support.home import Home, wait_for, words_of

TAB = "rbee.commands.web_tab"


def tabs(home: Home) -> list[psutil.Process]:
    """The processes of screens, their guards aside."""
    found = [one for one in home.processes() if TAB in words_of(one)]
    return [one for one in found if "--" not in words_of(one)]


@pytest.fixture
def browser() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=20.0) as client:
        yield client


async def drawn(ws: aiohttp.ClientWebSocketResponse, words: str) -> None:
    """Read until the words were sent to the terminal, in whatever colours."""
    shown = ""
    async with asyncio.timeout(30):
        while words not in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown):
            message = await ws.receive()
            assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), shown[-500:]
            if message.type is aiohttp.WSMsgType.BINARY:
                shown += message.data.decode()


async def closed(ws: aiohttp.ClientWebSocketResponse) -> int | None:
    """Read to the end: why it was closed."""
    async with asyncio.timeout(30):
        async for _ in ws:
            pass
    return ws.close_code


def refusals(browser: httpx.Client, base: str, token: str) -> None:
    """Everybody but the owner of the link, before it is used."""

    def get(path: str, method: str = "GET", **headers: str) -> httpx.Response:
        reply = browser.request(method, base + path, headers=headers)
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert "set-cookie" not in reply.headers
        return reply

    link = f"?token={token}"
    assert get(link, Host="evil.example").status_code == 403
    assert get(link, Origin="http://evil.example").status_code == 403
    assert get(link, Origin="http://127.0.0.1:1").status_code == 403
    assert get(link, method="HEAD").status_code == 405
    assert get(link, method="POST").status_code == 405
    assert get(link, **{"Sec-Purpose": "prefetch;prerender"}).status_code == 503
    assert get(f"?token={token[:-1]}").status_code == 403
    for path in ("", "ws", "textual.js", "static/", "download/1", "?token"):
        assert get(path).status_code == (403 if "token" in path else 401)
    assert "press Enter for a new link" in get("").text


async def use(home: Home, base: str, prefix: str, cookies: dict[str, str]) -> None:
    """The owner's tabs, of which one may be open at a time."""
    socket = f"{base.rstrip('/')}{prefix}ws"
    own = base.rstrip("/")
    async with aiohttp.ClientSession(cookies=cookies) as session:
        for origin in (None, "http://evil.example", "http://127.0.0.1:1"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(socket, origin=origin)
            assert caught.value.status == 403
        async with session.ws_connect(f"{socket}?width=100&height=30", origin=own) as ws:
            await drawn(ws, "queen is up")
            async with session.ws_connect(socket, origin=own) as other:
                await drawn(other, "One tab is open, which is the most")
                assert await closed(other) == 1013
            await ws.send_json(["resize", {"width": 120, "height": 40}])
            await ws.send_json(["stdin", "6"])
            await drawn(ws, "[6 Chat]")
            await ws.send_json(["stdin", 6])
            assert await closed(ws) == 1003
        async with session.ws_connect(socket, origin=own) as ws:
            await drawn(ws, "queen is up")
            (screen,) = tabs(home)  # the first tab's is gone
            screen.kill()
            await drawn(ws, "The screen ended by itself.")
            await closed(ws)

        async with session.ws_connect(socket, origin=own) as ws:
            await drawn(ws, "queen is up")
            (server,) = [one for one in home.processes() if "web" in words_of(one)]
            server.kill()
            assert await closed(ws) == 1006


def test_one_browser_gets_in_and_all_ends_with_the_server(home: Home, browser: httpx.Client):
    process = home.start("web", "--json", "--tabs", "1")
    said = wait_for(lambda: home.out(process).rstrip().endswith("}") and home.out(process))
    link = json.loads(said)["url"]
    base, _, token = link.partition("?token=")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", base)
    assert len(token) >= 43
    refusals(browser, base, token)

    entered = browser.get(link)
    assert entered.status_code == 200
    header = entered.headers["set-cookie"]
    prefix = entered.text.split("0;url=")[1].split('"')[0]
    name, value = header.split(";")[0].split("=")
    assert {"HttpOnly", "SameSite=Strict", f"Path={prefix}"} <= set(header.split("; "))
    assert browser.get(link).status_code == 403

    page = browser.get(f"{base}{prefix[1:]}")
    assert f"ws://{base[7:-1]}{prefix}ws" in page.text
    for asset in re.findall(r'(?:href|src)="([\w.-]+)"', page.text):
        assert browser.get(f"{base}{prefix[1:]}{asset}").status_code == 200
    for absent in ("server.py", "%2e%2e/server.py", "js/textual.js"):
        assert browser.get(f"{base}{prefix[1:]}{absent}").status_code == 404
    assert browser.get(base).status_code == 401

    asyncio.run(use(home, base, prefix, {name: value}))
    assert process.wait(10) == -signal.SIGKILL
    home.until_empty(20)
    logs = "".join(file.read_text("utf-8") for file in (home.path / "state" / "logs").iterdir())
    for secret in (token, value):
        assert secret not in logs + home.err(process)


def test_a_queen_that_runs_is_left_alone_and_enter_makes_links(
    home: Home, browser: httpx.Client, tmp_path: Path
):
    assert home.rbee("queen", "start").returncode == 0
    script = tmp_path / "browser"
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$1" > "$(dirname "$0")/asked"\n', "utf-8")
    script.chmod(0o700)
    master, slave = pty.openpty()
    process = subprocess.Popen(
        home.command("web", "--open"), env=home.env | {"BROWSER": f"{script} %s"}, text=True,
        stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_own_terminal,
    )  # fmt: skip
    os.close(slave)
    home.adopt(process)
    assert process.stdout is not None
    first = process.stdout.readline().strip()
    asked = wait_for(lambda: (tmp_path / "asked").exists() and (tmp_path / "asked").read_text())
    door = Path(asked.strip().removeprefix("file://"))
    assert first in door.read_text("utf-8")
    assert stat.S_IMODE(door.stat().st_mode) == 0o600
    token = first.partition("?token=")[2]
    assert not any(token in " ".join(words_of(one)) for one in home.processes())

    os.write(master, b"\n")
    second = process.stdout.readline().strip()
    assert second != first
    assert not door.exists()
    assert browser.get(first).status_code == 403
    assert browser.get(second).status_code == 200

    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=20)[1]
    os.close(master)
    assert process.returncode == 0, told
    assert f"attached to the queen at {home.url}" in told
    assert home.get("/health")["workers_total"] == 0
    assert home.rbee("queen", "stop").returncode == 0
    home.until_empty(20)


def test_a_queen_of_its_own_stays_while_jobs_run(home: Home):
    process = home.start("web")
    body = {"operation": "infer", "model": "echo", "prompt": "@delay=100 @repeat=2000 tick"}
    job = home.post("/v1/jobs", body).json()["job_id"]
    wait_for(lambda: home.get(f"/v1/jobs/{job}")["state"] == "running", what="a job that runs")
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert "1 job is running: the queen stays" in home.err(process)
    assert home.get(f"/v1/jobs/{job}")["state"] == "running"
    assert home.rbee("queen", "stop").returncode == 0
    home.until_empty(20)


def _own_terminal() -> None:
    os.setsid()
    os.close(os.open(os.ttyname(0), os.O_RDWR))


@pytest.mark.parametrize(
    "args, code, words",
    [
        (["--host", "0.0.0.0"], "BIND_REFUSED", "ssh -L"),
        (["--host", "10.0.0.7"], "BIND_REFUSED", "ssh -L"),
    ],
)
def test_other_machines_are_not_served(
    args: list[str], code: str, words: str, monkeypatch: pytest.MonkeyPatch, home: Home
):
    from rbee.commands import web
    from rbee.errors import RbeeError

    monkeypatch.setenv("RBEE_HOME", str(home.path))
    call: Callable[[], int] = lambda: web.run(  # noqa: E731
        host=args[1], port=0, tabs=1, open_browser=False, as_json=False
    )
    with pytest.raises(RbeeError) as caught:
        call()
    assert caught.value.code == code
    assert words in caught.value.action


@pytest.mark.anyio
@pytest.mark.parametrize("broken", ["log", "connection"])
async def test_a_tab_that_cannot_start_leaves_nothing(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pairs: list[socket.socket] = []
    log_path = tmp_path / "tab.log"

    def pair() -> tuple[socket.socket, socket.socket]:
        pairs.extend(made := make_pair())
        return made

    async def refused(**_: object) -> None:
        raise OSError("no room")

    make_pair = socket.socketpair
    if broken == "log":
        log_path.mkdir()
    else:
        monkeypatch.setattr(asyncio, "open_connection", refused)
    monkeypatch.setattr(tab.socket, "socketpair", pair)
    with pytest.raises(OSError):  # noqa: PT011  what the kernel calls it differs
        await tab.start_tab(
            lambda _: [sys.executable, "-c", "input()"], log_path=log_path, width=80, height=24
        )
    assert [one.fileno() for one in pairs[:2]] == [-1, -1]
    assert psutil.Process().children() == []
