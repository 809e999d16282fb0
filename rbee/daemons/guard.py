"""The guard: a small parent for one worker, so that nobody is left behind.

Run as a script, standard library only: `python -I -S guard.py GRACE -- COMMAND…`. Its stdin is
the read end of a pipe whose write end its owner holds and nobody else. When that end closes, by
whatever death, or on SIGTERM, the child gets SIGTERM, GRACE seconds, then SIGKILL, and so does
everything the child started (on Linux the guard is subreaper: orphans become its children). The
child also gets SIGKILL from the kernel when the guard itself is killed. The guard ends exactly as
its child did: same exit code, or same signal. It never restarts anything and never reads output.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LINUX = sys.platform.startswith("linux")


def _prctl(option: int, value: int) -> None:
    if _LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _start(command: list[str]) -> int:
    guard = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(137)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.execvp(command[0], command)
    except OSError as exc:
        os.write(2, f"guard: cannot run {command[0]}: {exc}\n".encode())
    os._exit(127)


def _descendants() -> list[int]:
    """Pids of all living descendants. Linux only; elsewhere the child alone is known."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if _LINUX else ():
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    fields = file.read().rpartition(")")[2].split()
                if fields[0] != "Z":
                    parents.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        for pid in parents.get(todo.pop(), ()):
            found.append(pid)
            todo.append(pid)
    return found


def _kill_rest(child: int | None) -> None:
    """SIGKILL in a loop: what is killed may have been forking."""
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        rest = _descendants() if _LINUX or child is None else [child]
        for pid in rest:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not rest or not _LINUX:
            return
        time.sleep(0.01)


def _end_like(status: int) -> int:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return 128 + number
    return os.WEXITSTATUS(status)


def main(argv: list[str]) -> int:
    """Guard one command; returns the exit code to end with."""
    grace = float(argv[0])
    command = argv[2:]
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    asked = False

    def ask(_number: int, _frame: object) -> None:
        nonlocal asked
        asked = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ask)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    child = _start(command)
    watch = [0, reader]
    deadline: float | None = None
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            _kill_rest(None)
            return _end_like(status)
        if asked and deadline is None:
            deadline = time.monotonic() + grace
            os.kill(child, signal.SIGTERM)
            os.kill(child, signal.SIGCONT)
        if deadline is not None and time.monotonic() >= deadline:
            _kill_rest(child)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)
            return 137
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select(watch, [], [], timeout)
        if reader in ready:
            os.read(reader, 4096)
        if 0 in ready and not os.read(0, 4096):
            watch = [reader]
            asked = True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
