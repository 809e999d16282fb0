"""A colony to be broken piece by piece: a queen on a port that stays, and hives beside her."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.home import Home, wait_for
from tests.support.line import Line
from tests.support.told import Reader, Told, follow

GONE_WITHIN = 10.0


class Colony:
    """Of one user. `hives` are processes of their own; none: the queen runs the only one herself.

    Makes the user's queen listen on the same port whenever she is started again.
    """

    def __init__(
        self, home: Home, hives: Iterable[str] = (), *, behind: bool = False, **env: str
    ) -> None:
        self.home = home
        self._hives: dict[str, subprocess.Popen[str]] = {}
        names = list(hives)
        self.lines: dict[str, tuple[Line, Line]] = {}
        """By hive: the queen's way there, and its way to her."""
        if names:
            home.env["RBEE_QUEEN_LOCAL_HIVE"] = "false"
        home.env.update(env)
        with socket.create_server(("127.0.0.1", 0)) as free:
            home.env["RBEE_QUEEN_PORT"] = str(free.getsockname()[1])
        self.start_queen()
        self.start_hives(names, behind=behind)

    # ---- queen and hives -----------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.home.env['RBEE_QUEEN_PORT']}"

    @property
    def queen(self) -> psutil.Process:
        """Her process."""
        assert self.home.state is not None
        return psutil.Process(self.home.state["pid"])

    def files(self) -> int:
        """Open files of the queen but for the connections to workers and hives that she keeps, and
        the database of usage, which she opens ten seconds after her first answer."""
        port = int(self.home.env["RBEE_QUEEN_PORT"])
        kept = [c for c in self.queen.net_connections("tcp") if c.laddr.port != port]
        usage = [f for f in self.queen.open_files() if "/usage.db" in f.path]
        return self.queen.num_fds() - len(kept) - len(usage)

    def until_files(self, most: int) -> None:
        """She has no more of them open than that."""
        wait_for(lambda: self.files() <= most, limit=10, what=f"at most {most} open files")

    def start_queen(self) -> None:
        done = self.home.rbee("queen", "start")
        assert done.returncode == 0, done.stderr

    def kill_queen(self) -> None:
        """kill -9, and her own hive's workers with her."""
        queen = self.queen
        queen.kill()
        queen.wait(GONE_WITHIN)

    def start_hives(self, names: Iterable[str], *, behind: bool = False) -> None:
        """Returns when the queen has them. `behind`: each behind lines that can be cut."""
        assert self.home.state is not None
        command = Path(self.home.command()[0]).with_name("rbee-hive")
        env = self.home.env | {"RBEE_INTERNAL_TOKEN": self.home.state["token"]}
        names = list(names)
        for name in names:
            port, queen_url = self._line(name) if behind else ("0", self.url)
            with (self.home.path / f"hive-{name}.log").open("a", encoding="utf-8") as log:
                self._hives[name] = subprocess.Popen(
                    [str(command), "--port", port, "--name", name, "--queen-url", queen_url],
                    env=env, stdout=log, stderr=log, text=True, stdin=subprocess.DEVNULL,
                )  # fmt: skip
            self.home.adopt(self._hives[name])
        wait_for(lambda: set(names) <= self.online(), limit=60, what=f"{names} have joined")

    def _line(self, name: str) -> tuple[str, str]:
        """The port for the hive, and where it finds the queen; each meets the other by a line."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port: int = free.getsockname()[1]
        there = Line(port)
        announced, by_line = f"127.0.0.1:{port}", f"127.0.0.1:{there.port}"
        back = Line(int(self.home.env["RBEE_QUEEN_PORT"]), announced.encode(), by_line.encode())
        self.lines[name] = (there, back)
        return str(port), f"http://127.0.0.1:{back.port}"

    def online(self) -> set[str]:
        """Hives that the queen says are there."""
        return {hive["name"] for hive in self.home.get("/v1/hives")["hives"] if hive["online"]}

    def kill_hive(self, name: str) -> list[int]:
        """kill -9; the pids of what it ran."""
        process = self._hives.pop(name)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait(GONE_WITHIN)
        return [child.pid for child in children]

    @contextmanager
    def halted(self, name: str) -> Generator[None]:
        """A hive that does nothing meanwhile, though its process lives."""
        process = self._hives[name]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop the queen, and whoever does not go with her."""
        self.home.close()
        for line in self.lines.values():
            for way in line:
                way.close()

    # ---- workers -------------------------------------------------------------------------------

    def workers(self) -> dict[str, dict[str, Any]]:
        """By id."""
        return {worker["worker_id"]: worker for worker in self.home.workers()}

    def start_worker(self, hive: str | None = None, model: str = "echo") -> str:
        """Ask for one; its id when it can be used."""
        body = {"operation": "worker_spawn", "model": model} | ({"hive": hive} if hive else {})
        told = self.follow(self.post(body))
        assert told.end == "end", told.events
        return str(told.of("result")[0]["worker_id"])

    def signal_worker(self, worker_id: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Its pid."""
        pid = self.workers()[worker_id]["pid"]
        os.kill(pid, number)
        return pid

    def until_gone(self, worker_id: str) -> None:
        wait_for(lambda: worker_id not in self.workers(), what=f"{worker_id} is gone")

    def clear(self) -> None:
        """Stop all workers and end all jobs, for the next test."""
        for job in self.home.get("/v1/jobs?limit=1000")["jobs"]:
            if job["finished_at"] is None:
                httpx.delete(f"{self.url}/v1/jobs/{job['job_id']}", timeout=10, trust_env=False)
        for worker_id in self.workers():
            self.post({"operation": "worker_stop", "worker_id": worker_id})
        wait_for(lambda: not self.workers(), what="no worker")

    # ---- jobs ----------------------------------------------------------------------------------

    def post(self, body: dict[str, Any], client: str | None = None) -> str:
        """Submit an operation; the job's id."""
        headers = self.home.owner | ({"X-Rbee-Client": client} if client else {})
        reply = httpx.post(
            f"{self.url}/v1/jobs", json=body, headers=headers, timeout=30, trust_env=False
        )
        assert reply.status_code == 202, reply.text
        return str(reply.json()["job_id"])

    def infer(
        self, prompt: str, *, client: str | None = None, model: str = "echo", **fields: Any
    ) -> str:
        """Submit words."""
        body = {"operation": "infer", "model": model, "prompt": prompt, **fields}
        return self.post(body, client)

    def job(self, job_id: str) -> dict[str, Any]:
        return self.home.get(f"/v1/jobs/{job_id}")

    def jobs(self, state: str) -> list[dict[str, Any]]:
        """Those in a state, newest first."""
        return self.home.get(f"/v1/jobs?limit=1000&state={state}")["jobs"]

    def until(self, job_id: str, state: str) -> dict[str, Any]:
        """The job, once it is in a state."""

        def there() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["state"] == state else None

        found = wait_for(there, limit=30, what=f"{job_id} {state}")
        assert found is not None
        return found

    def until_said(self, job_id: str, words: int) -> None:
        """Its answer has so many tokens."""
        follow(self.url, job_id, until=lambda told: told.kinds.count("token") >= words)

    def follow(self, job_id: str, *, after: int = 0) -> Told:
        """All of a stream, to its end."""
        return follow(self.url, job_id, after=after)

    def reader(self, job_id: str) -> Reader:
        return Reader(self.url, job_id)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = httpx.get(f"{self.url}/metrics", timeout=10, trust_env=False).text
        lines = [line for line in text.splitlines() if line.partition("{")[0].split(" ")[0] == name]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


def words(count: int, name: str = "w") -> str:
    """Different ones, so that a gap or a repetition shows."""
    return " ".join(f"{name}{number}" for number in range(count))
