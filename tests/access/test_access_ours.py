"""To whom the owner's token is shown: to her own living queen, and to nobody who took her port."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rbee.access.keys import owner_token
from rbee.access.ours import born_of, is_that, our_url
from rbee.access.presented import for_url, learn
from rbee.client import QueenClient
from rbee.daemons import launch
from rbee.errors import Forbidden, RbeeError
from rbee.paths import Paths
from rbee.settings import QueenSettings, Settings

pytestmark = pytest.mark.anyio


class Stranger(BaseHTTPRequestHandler):
    """Answers nothing and notes what it is shown."""

    shown: list[str]

    def do_GET(self) -> None:
        self.shown.append(self.headers.get("Authorization", ""))
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        del format, args


@pytest.fixture
def stranger() -> Iterator[tuple[str, list[str]]]:
    """An address, and what its requests showed."""
    handler = type("Noting", (Stranger,), {"shown": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.shown
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(*(tmp_path / name for name in ("config", "data", "state", "cache", "run")))
    paths.ensure()
    assert owner_token(paths.owner_file, make=True)
    return paths


def say(paths: Paths, url: str, pid: int, born: str) -> None:
    state = {
        "url": url, "pid": pid, "born": born, "version": "0", "lifetime": "linger",
        "started_at": 0.0, "token": "t",
    }  # fmt: skip
    paths.state_file.write_text(json.dumps(state))


async def ask(url: str) -> None:
    async with QueenClient(url) as client:
        with pytest.raises(RbeeError):
            await client.info()


async def test_the_token_is_for_the_living_queen_of_this_user_only(
    paths: Paths, stranger: tuple[str, list[str]]
) -> None:
    (url, shown), token = stranger, owner_token(paths.owner_file)
    me = os.getpid()
    say(paths, url, me, born_of(me))
    learn(url, Settings(), paths)
    async with QueenClient(url) as client:
        for change in (None, lambda: say(paths, url, me, "0"), paths.state_file.unlink):
            if change is not None:
                change()
            with pytest.raises(RbeeError):
                await client.info()
    assert shown == [f"Bearer {token}", "", ""]
    assert token
    assert token not in repr(for_url(url))


async def test_who_took_the_port_of_a_killed_queen_gets_nothing(
    paths: Paths, stranger: tuple[str, list[str]]
) -> None:
    """Her process number may be another's by then, as after a start of the machine."""
    url, shown = stranger
    say(paths, url, os.getpid(), "12345")
    assert await launch.find(Settings(), paths) is None
    assert shown == []
    with pytest.raises(RbeeError):
        await launch.find(Settings(queen=QueenSettings(url=url)), paths)
    say(paths, f"{url}0", os.getpid(), born_of(os.getpid()))
    await ask(url)
    assert set(shown) == {""}


def test_a_process_is_known_by_when_it_began(paths: Paths) -> None:
    program = [sys.executable, "-c", "input()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE) as child:
        born = born_of(child.pid)
        assert born
        assert is_that(child.pid, born)
        assert not is_that(os.getpid(), born)
        assert not is_that(child.pid, "")
        say(paths, "http://127.0.0.1:1/", child.pid, born)
        assert our_url(paths) == "http://127.0.0.1:1"
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not is_that(child.pid, born), "dead, and waited for by nobody yet"
        assert our_url(paths) is None
    assert born_of(child.pid) == ""


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 5, "pid": 1}', '{"url": "x", "pid": -1}'])
def test_a_damaged_state_file_is_nobodys(paths: Paths, text: str) -> None:
    paths.state_file.write_text(text)
    assert our_url(paths) is None


def test_a_token_that_somebody_else_has_laid_there_is_not_taken(paths: Paths) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    laid = owner_token(paths.owner_file)
    os.chown(paths.owner_file, 65534, 65534)
    fresh = owner_token(paths.owner_file, make=True)
    assert fresh not in (None, laid)
    assert paths.owner_file.stat().st_uid == 0


def test_folders_that_anybody_may_write_in_are_refused(paths: Paths) -> None:
    paths.state.chmod(0o777)
    with pytest.raises(Forbidden, match=r"any user .* /.*state") as refused:
        paths.ensure()
    assert f"chmod 700 {paths.state}" in refused.value.action
    paths.state.chmod(0o755)
    paths.ensure()
