"""The guard, with real processes: whoever dies, nobody stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rbee.daemons import guard
from tests.support.home import wait_for

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(sleep, start_new_session=True)
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""


def start(grace: float, *command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__, str(grace), "--", *command],
        stdin=subprocess.PIPE,
    )


@pytest.fixture
def stubborn(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """A guard over a command that ignores SIGTERM and has a child in a session of its own."""
    note = tmp_path / "pids"
    process = start(0.3, sys.executable, "-c", STUBBORN, str(note))
    pids = [int(p) for p in wait_for(lambda: note.exists() and note.read_text()).split()]
    yield process, pids
    if process.stdin:
        process.stdin.close()
    process.kill()
    process.wait()


def none_alive(pids: list[int]) -> bool:
    return not any(
        psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE for p in pids
    )


@pytest.mark.parametrize("code", [0, 3, 77])
def test_it_ends_with_the_exit_code_of_its_command(code: int) -> None:
    process = start(1, sys.executable, "-c", f"raise SystemExit({code})")
    assert process.wait(20) == code
    assert process.stdin
    process.stdin.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_it_ends_with_the_signal_of_its_command(number: int) -> None:
    code = f"import os; os.kill(os.getpid(), {int(number)})"
    process = start(1, sys.executable, "-c", code)
    assert process.wait(20) == -number
    assert process.stdin
    process.stdin.close()


def test_a_command_that_does_not_exist_is_127() -> None:
    process = start(1, "/nonexistent/command")
    assert process.wait(20) == 127
    assert process.stdin
    process.stdin.close()


def test_the_end_of_the_lifeline_ends_the_command_and_its_children(
    stubborn: tuple[subprocess.Popen[bytes], list[int]],
) -> None:
    process, pids = stubborn
    assert process.stdin
    process.stdin.close()
    assert process.wait(5) == 137
    wait_for(lambda: none_alive(pids), limit=2)


def test_sigterm_ends_the_command_and_its_children(
    stubborn: tuple[subprocess.Popen[bytes], list[int]],
) -> None:
    process, pids = stubborn
    process.terminate()
    assert process.wait(5) == 137
    wait_for(lambda: none_alive(pids), limit=2)


@pytest.mark.skipif(sys.platform != "linux", reason="PDEATHSIG is Linux's")
def test_sigkill_of_the_guard_kills_the_command(
    stubborn: tuple[subprocess.Popen[bytes], list[int]],
) -> None:
    process, pids = stubborn
    process.kill()
    process.wait(5)
    wait_for(lambda: none_alive(pids[:1]), limit=2)
    os.kill(pids[1], signal.SIGKILL)


def test_a_stopped_command_is_ended_too(
    stubborn: tuple[subprocess.Popen[bytes], list[int]],
) -> None:
    process, pids = stubborn
    os.kill(pids[0], signal.SIGSTOP)
    assert process.stdin
    process.stdin.close()
    assert process.wait(5) == 137
    wait_for(lambda: none_alive(pids), limit=2)
