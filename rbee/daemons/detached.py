"""A process that may outlive us, and waiting for processes that are not our children.

asyncio's own subprocess kills its child when it is collected, which is wrong for a queen that is
meant to stay; so this starts by `subprocess` and waits on a pidfd.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import anyio

POLL = 0.2
"""Seconds between looks where there is no pidfd (macOS): nothing else tells of foreign ones."""


class DetachedProcess:
    """A process in a session of its own. With a lifeline we hold the write end of its stdin."""

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], output: int, lifeline: bool
    ) -> None:
        self._popen = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE if lifeline else subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(env),
            cwd="/",
            start_new_session=True,
        )
        self.pid = self._popen.pid

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._popen.poll() is not None

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._popen.poll()

    async def wait(self) -> int:
        """Its exit code, negative for a signal."""
        await gone(self.pid, child=self._popen)
        self.release()
        return self._popen.wait()

    def release(self, last_words: bytes = b"") -> None:
        """Write into the lifeline, then close it."""
        pipe = self._popen.stdin
        if pipe is not None and not pipe.closed:
            with contextlib.suppress(BrokenPipeError):
                pipe.write(last_words)
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def forget(self) -> None:
        """Let it live on; keeps subprocess from warning that nobody reaped it."""
        self._popen.returncode = 0

    def kill(self) -> None:
        """SIGKILL."""
        self._popen.kill()


async def gone(pid: int, *, child: subprocess.Popen[bytes] | None = None) -> None:
    """Return when a process has ended (a child may still have to be reaped)."""
    with _pidfd(pid) as fd:
        if fd is not None:
            await anyio.wait_readable(fd)
            return
    while (child.poll() is None) if child is not None else alive(pid):  # noqa: ASYNC110
        await anyio.sleep(POLL)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return not Path("/proc/self").exists()


def send(pid: int, number: signal.Signals) -> None:
    """A signal; harmless when the process is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@contextlib.contextmanager
def _pidfd(pid: int) -> Generator[int | None]:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    except (AttributeError, OSError):
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)
