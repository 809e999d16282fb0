"""The hub stand-in for tests: `hub` is one that runs, with an empty root of its own.

def test(hub):
    hub.add("org/tiny", {"m.Q4_K_M.gguf": path_or_bytes_or_size}, gated="manual")
    hub.fault("m.Q4_K_M", "cut", at=1000)     # kinds: see tests/support/hub.py
    daemon_environment |= hub.env             # HF_ENDPOINT and no token of the user's
    [request for request in hub.log() if request["origin"] == "cdn"]
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

REPOSITORY = Path(__file__).parents[2]


class StandIn:
    """The program and its folder. `start` before use, `stop` after it, or `with StandIn(root)`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = self.cdn = ""
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> StandIn:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, port: int = 0) -> StandIn:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.hub", "--port", str(port), "--root", self.root],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url, self.cdn = (self._process.stdout.readline().strip() for _ in range(2))
        assert self.cdn, "the hub stand-in did not start"
        return self

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        self._process.communicate(timeout=20)
        self._process = None

    @property
    def env(self) -> dict[str, str]:
        """For a process that is to use it: no user's token, cache or settings."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(self.root.parent / "hf-home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
        }

    def add(self, repo: str, files: Mapping[str, bytes | Path | int], **settings: Any) -> Path:
        """A repository. A file is its bytes, another file (linked), or the size of a sparse one.

        `settings`: see tests/support/hub_repos.py; `sha256={name: hex}` spares hashing large ones.
        """
        folder = self.root / repo
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif isinstance(content, Path):
                path.symlink_to(content.resolve())
            else:
                with path.open("wb") as sparse:
                    sparse.truncate(content)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".hub.json").write_text(json.dumps(settings))
        return folder

    def fault(self, path: str, kind: str, *, times: int = 1, **more: Any) -> None:
        """See tests/support/hub.py; `path` is a regular expression, `times` 0 for ever."""
        self._call("POST", "/_fault", {"path": path, "kind": kind, "times": times, **more})

    def heal(self) -> None:
        self._call("DELETE", "/_fault")

    def log(self) -> list[dict[str, Any]]:
        return self._call("GET", "/_log")

    def forget(self) -> None:
        self._call("DELETE", "/_log")

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(self.url + path, data, method=method), timeout=20) as reply:
            return json.loads(reply.read())


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path / "hub") as stand_in:
        yield stand_in
