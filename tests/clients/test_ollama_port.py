"""The queen at Ollama's own port, for programs that look nowhere else."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest

from tests.support.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


def test_it_is_answered_there_when_nothing_else_has_it(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        home.env["RBEE_QUEEN_OLLAMA_PORT"] = str(port)
        refused = home.rbee("queen", "start")
        assert (refused.returncode, "PORT_TAKEN" in refused.stderr) == (1, True), refused.stderr
        assert str(port) in refused.stderr
    started = home.rbee("queen", "start")
    assert started.returncode == 0, started.stderr
    assert not home.url.endswith(str(port))
    client = ollama.Client(f"http://127.0.0.1:{port}")
    assert client.generate("echo", "one two").response == "one two"
    client.close()
