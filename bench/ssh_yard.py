"""Machines reached over SSH on this one: real sshds, real hives behind them, and a queen.

Owns what is started and that all of it ends. Measures nothing.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil

from tests.support.box import Box
from tests.support.home import Home, wait_for
from tests.support.sshd import SshUser

CTX = 100_000


class Yard:
    """One user, their queen, and machines they have a key for."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self.home = Home(folder / "q", RBEE_WORKER_CTX=str(CTX), RBEE_WORKER_SLOTS="16")
        self.me = SshUser(self.home.path)
        self.boxes: dict[str, Box] = {}

    def __enter__(self) -> Yard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.home.close()
        for box in self.boxes.values():
            box.close()

    def box(self, name: str, aliases: Sequence[str] = ()) -> Box:
        """A machine with this rbee on it; `aliases`: more names of the same one."""
        box = self.boxes[name] = Box(self._folder / name, name, self.me)
        box.has_rbee()
        self.me.trust(box.sshd)
        hosts = f"Host {' '.join(aliases)}\n" + box.config.partition("\n")[2] if aliases else ""
        old = self.me.ssh / "config"
        text = old.read_text("utf-8") if old.exists() else f"IdentityFile {self.me.key}\n"
        self.me.configure(text + box.config + hosts)
        return box

    @contextmanager
    def queen(self) -> Generator[Queen]:
        """Hers for a block."""
        with ExitStack() as stack:
            yield stack.enter_context(Queen(self.home))
            self.stopped()

    def stopped(self) -> None:
        """The queen ends with all that belongs to her."""
        done = self.home.rbee("queen", "stop")
        if done.returncode:
            raise RuntimeError(done.stderr)


class Queen:
    """A client of a queen that this starts, or finds."""

    def __init__(self, home: Home) -> None:
        self.home = home
        done = home.rbee("queen", "start")
        if done.returncode:
            raise RuntimeError(done.stderr)
        state = json.loads((home.path / "state" / "queen.json").read_bytes())
        self.process = psutil.Process(state["pid"])
        self.url: str = state["url"]
        owner = (home.path / "state" / "owner.token").read_text("ascii")
        self.http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {owner}"},
            timeout=120,
            trust_env=False,
        )

    def __enter__(self) -> Queen:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.http.close()

    def get(self, path: str) -> Any:
        """What she answers. Raises RuntimeError."""
        return _checked(self.http.get(path)).json()

    def add(self, name: str, target: str, **more: Any) -> dict[str, Any]:
        """Add a machine; returns when its hive is online."""
        body = {"name": name, "target": target, **more}
        return _checked(self.http.post("/v1/hives", json=body)).json()

    def remove(self, name: str) -> None:
        """Forget one; its hive stops."""
        _checked(self.http.delete(f"/v1/hives/{name}"))

    def online(self, name: str) -> bool:
        """Whether its hive is followed."""
        return self.get(f"/v1/hives/{name}")["state"] == "online"

    def until_online(self, name: str, wanted: bool = True) -> None:
        """Or until it is not. Raises AssertionError after a while."""
        what = f"{name} is {'online' if wanted else 'missed'}"
        wait_for(lambda: self.online(name) is wanted, limit=60.0, what=what)

    def submit(self, prompt: str, hive: str) -> str:
        """An echo job's id."""
        body = {"operation": "infer", "model": "echo", "prompt": prompt, "hive": hive}
        return _checked(self.http.post("/v1/jobs", json=body | {"max_tokens": CTX // 4})).json()[
            "job_id"
        ]

    def worker(self, hive: str) -> dict[str, Any]:
        """The one that runs there, started if there is none."""
        self.read(self.submit("one", hive))
        (found,) = [w for w in self.get("/v1/workers")["workers"] if w["hive"] == hive]
        return found

    def read(self, job_id: str) -> int:
        """Its stream to the end; how many tokens came. Raises RuntimeError where it failed."""
        count, block = 0, b""
        with self.http.stream("GET", f"/v1/jobs/{job_id}/stream") as reply:
            for piece in reply.iter_raw():
                block = block[-12:] + piece  # less than the line that is looked for
                count += block.count(b"event: token\n")
        if b"[DONE]" not in block[-64:]:
            raise RuntimeError(f"the stream of {job_id} ended early")
        return count


def _checked(reply: httpx.Response) -> httpx.Response:
    if reply.is_error:
        raise RuntimeError(f"{reply.request.url.path}: {reply.text[:500]}")
    return reply
