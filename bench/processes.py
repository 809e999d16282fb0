"""A server's process: started in a session of its own, measured, and ended with all it started.

Owns CPU and memory readings. Memory is read from /proc where there is one; elsewhere PSS is absent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.abc
import psutil

from rbee.daemons.process import clean_environment, tail

GRACE = 8.0
"""Seconds from SIGTERM to SIGKILL: a queen takes her workers down meanwhile."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a process tree."""

    rss: int
    pss: int
    """Shared pages divided by their users; 0 where the system does not tell."""


class ServerDied(Exception):
    """The process ended by itself; its last words are the message."""


@dataclass
class ServerProcess:
    """One started command."""

    process: anyio.abc.Process
    log: Path

    @property
    def pid(self) -> int:
        """Of the command itself."""
        return self.process.pid

    def check(self) -> None:
        """Raises ServerDied when it has ended."""
        if self.process.returncode is not None:
            said = "\n".join(tail(self.log, 8))
            raise ServerDied(f"ended with {self.process.returncode}:\n{said}")

    async def stop(self) -> None:
        """SIGTERM, its grace, SIGKILL; returns when it is gone. Harmless when already gone."""
        with anyio.CancelScope(shield=True):
            descendants = tree(self.pid)
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            with anyio.move_on_after(GRACE):
                await self.process.wait()
            for process in descendants:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            await self.process.wait()


async def start(
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> ServerProcess:
    """Start a command with a clean environment plus `env`; its output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = await anyio.open_process(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=clean_environment(env),
            pass_fds=list(pass_fds),
            start_new_session=True,
        )
    return ServerProcess(process, log)


def tree(pid: int) -> list[psutil.Process]:
    """A process and all under it; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time so far of these processes."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system
    return total


def thread_seconds(pid: int, tid: int) -> float | None:
    """CPU time of one thread in the scheduler's nanoseconds; None where it is not told."""
    try:
        text = Path(f"/proc/{pid}/task/{tid}/schedstat").read_text("ascii")
        return int(text.split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def memory(pids: Sequence[int]) -> Memory:
    """RSS and PSS of these processes."""
    rss = pss = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            rss += psutil.Process(pid).memory_info().rss
        with contextlib.suppress(OSError):
            pss += parse_pss(Path(f"/proc/{pid}/smaps_rollup").read_text("ascii"))
    return Memory(rss, pss)


def parse_pss(text: str) -> int:
    """Bytes of the `Pss:` line of a smaps_rollup; 0 when there is none."""
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
