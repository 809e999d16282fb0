"""A queen at Ollama's own port, for programs that look nowhere else; what she fetches."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest

from tests.support.home import Home, wait_for
from tests.support.hub_fixture import StandIn
from tests.support.tiny_gguf import llama

NAME = "hf.co/org/tiny"
FILE = "tiny-Q4_0.gguf"
DATA = llama().data() + random.Random(5).randbytes(4_000_000)


@pytest.fixture
def home(tmp_path: Path, hub: StandIn) -> Iterator[Home]:
    hub.add("org/tiny", {FILE: DATA})
    home = Home(tmp_path / "home", **hub.env)
    yield home
    home.close()


def state(home: Home) -> str:
    return home.get("/v1/jobs?limit=1")["jobs"][0]["state"]


def test_she_answers_there_and_fetches_and_deletes(home: Home, hub: StandIn) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        home.env["RBEE_QUEEN_OLLAMA_PORT"] = str(port)
        refused = home.rbee("queen", "start")
        assert (refused.returncode, "PORT_TAKEN" in refused.stderr) == (1, True), refused.stderr
        assert str(port) in refused.stderr
    started = home.rbee("queen", "start")
    assert started.returncode == 0, started.stderr
    assert not home.url.endswith(str(port))
    client = ollama.Client(f"http://127.0.0.1:{port}", headers=home.owner, timeout=60)
    assert client.generate("echo", "one two").response == "one two"

    hub.fault(FILE, "slow", origin="cdn", rate=200_000, times=0)
    lines = client.pull(NAME, stream=True)
    wait_for(lambda: next(lines).completed, what="some of it is there")
    lines.close()  # pyright: ignore[reportAttributeAccessIssue]
    wait_for(lambda: state(home) == "cancelled", what="the download is cancelled")
    with pytest.raises(ollama.ResponseError, match="org/tiny") as missing:
        client.show(NAME)
    assert missing.value.status_code == 404

    hub.heal()
    hub.fault(FILE, "slow", origin="cdn", rate=1_500_000, times=0)
    told = list(client.pull(NAME, stream=True))
    assert (told[0].status, told[-1].status) == ("pulling manifest", "success")
    done = [line.completed for line in told if line.digest]
    assert len(done) > 1
    assert done == sorted(done, key=lambda count: count or 0)
    assert all(line.total == len(DATA) for line in told if line.digest)

    (model,) = [one for one in client.list().models if "tiny" in (one.model or "")]
    assert (model.model, model.size) == ("org/tiny:Q4_0", len(DATA))
    assert getattr(client.show(NAME).details, "family", None) == "llama"
    assert client.delete("org/tiny:Q4_0").status == "success"
    assert [one for one in client.list().models if "tiny" in (one.model or "")] == []
    client.close()
