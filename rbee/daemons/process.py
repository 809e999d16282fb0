"""A child process under a guard: started, watched, ended; its output goes to a file, never a pipe.

Owns the one way in which rbee starts long-lived children. Environments are built from a list of
allowed names, so that no secret of the user's shell reaches a child.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.abc

_ALLOWED = (
    "HOME",
    "LANG",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
    "VIRTUAL_ENV",
)
_ALLOWED_PREFIXES = (
    "CUDA_",
    "GGML_",
    "GOMP_",
    "KMP_",
    "LC_",
    "LD_LIBRARY",
    "NVIDIA_",
    "OMP_",
    "XDG_",
)
NETWORK = frozenset(
    {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"}
)
"""What a daemon needs to reach beyond this machine; in capitals or not."""
_GUARD = Path(__file__).with_name("guard.py")
TREE = "RBEE_TREE"
"""Environment mark `hive:worker:nonce` by which a starting hive finds what an earlier one left."""
TAIL_BYTES = 8192


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment reduced to what a child needs, plus `extra`."""
    env = {
        name: value
        for name, value in os.environ.items()
        if name in _ALLOWED or name.startswith(_ALLOWED_PREFIXES)
    }
    return env | dict(extra or {})


def python_module(module: str, *args: str) -> list[str]:
    """Command line that runs a module of ours without the current folder on its path."""
    return [sys.executable, "-P", "-m", module, *args]


@dataclass
class GuardedProcess:
    """One command under its guard, which ends exactly as the command does."""

    process: anyio.abc.Process
    log_path: Path

    @property
    def guard_pid(self) -> int:
        """Pid of the guard."""
        return self.process.pid

    async def wait(self) -> int:
        """The command's exit code, negative for a signal."""
        return await self.process.wait()

    def terminate(self) -> None:
        """Ask the guard to end it: SIGTERM, its grace, SIGKILL. Harmless when already gone."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL for the guard itself; on Linux its child then gets one too."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def release(self) -> None:
        """Close the lifeline (which also ends it) and reap the guard."""
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            if self.process.stdin is not None:
                await self.process.stdin.aclose()
        await self.process.wait()

    def log_tail(self, lines: int = 10) -> list[str]:
        """The last lines the command wrote."""
        return tail(self.log_path, lines)


async def start_guarded(
    command: Sequence[str],
    *,
    log_path: Path,
    env: Mapping[str, str],
    pass_fds: Sequence[int] = (),
    grace: float = 1.0,
) -> GuardedProcess:
    """Start a command under a guard; `grace` is the seconds between SIGTERM and SIGKILL."""
    log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open_log(log_path) as log:
        process = await anyio.open_process(
            [sys.executable, "-I", "-S", str(_GUARD), str(grace), "--", *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=dict(env),
            pass_fds=list(pass_fds),
            start_new_session=True,
            cwd="/",
        )
    return GuardedProcess(process, log_path)


@contextlib.contextmanager
def open_log(path: Path) -> Generator[int]:
    """A log file to append to, for its owner only, as a descriptor."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def tail(path: Path, lines: int, *, most: int = TAIL_BYTES) -> list[str]:
    """The last lines of a file, reading at most 8 KiB; empty when it is not there.

    `most`: only of so many bytes at its end.
    """
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - min(most, TAIL_BYTES)))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]


def sweep(prefix: str, nonce: str) -> list[int]:
    """Kill processes marked `prefix…` by an earlier owner (another nonce). Returns their pids."""
    import psutil  # 15 ms, and only at a hive's start

    killed: list[int] = []
    for process in psutil.process_iter(["pid"]):
        with contextlib.suppress(psutil.Error, OSError):
            mark = process.environ().get(TREE, "")
            if mark.startswith(prefix) and not mark.endswith(f":{nonce}"):
                process.kill()
                killed.append(process.pid)
    return killed
