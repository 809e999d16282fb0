"""`python -m bench.screens`: what the terminal screens cost.

The real `rbee` in a pseudo-terminal, at a queen's double that tells of a colony: telemetry of every
machine each second, workers whose speed changes, totals. First paint: from the start of the process
until the first screen with the colony in it has been written. Idle: CPU of a core and memory while
nothing is pressed, with 12 and with 500 workers, on each screen. Frames: CPU of one repaint with
what it writes, in this process. Figures to stdout, the rest to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bench.figures import percentile
from bench.machine import common
from rbee.protocol.colony import Snapshot, Telemetry
from rbee.protocol.workers import WorkerState

TESTS = Path(__file__).resolve().parent.parent / "tests" / "tui"
sys.path.insert(0, str(TESTS))

import colony_data as data  # noqa: E402
from colony_double import ColonyDouble  # noqa: E402
from screen_driver import app_for, connected  # noqa: E402

MIB = 1 << 20
SIZE = (160, 45)
MODES = ("dashboard", "hives", "workers", "models", "jobs", "chat", "logs", "code", "settings")
CHANGING = 50
"""Workers whose figures change each second, at most."""
SETTLE = 3.0
"""Seconds from the first paint, or from a key, until something is measured."""
FRAMES = 200
_LOOK_SECONDS = 0.2
"""How long the end of a terminal's reader may take."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.screens", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="of idling, each (20)")
    parser.add_argument("--starts", type=int, default=5, help="of the program (5)")
    parser.add_argument("--only", choices=("start", "idle", "modes", "frames"), action="append")
    options = parser.parse_args(argv)
    only = options.only or ("start", "idle", "modes", "frames")
    told: dict[str, Any] = {"measured": common()}
    if "start" in only:
        told["first_paint"] = starts(options.starts)
    if "idle" in only:
        told["idle"] = {f"{n} workers": idle(n, options.seconds) for n in (12, 500)}
    if "modes" in only:
        told["idle_cpu_percent_by_screen"] = modes(options.seconds / 2)
    if "frames" in only:
        told["frame_cpu_ms"] = {f"{n} workers": asyncio.run(frames(n)) for n in (12, 500)}
    print(json.dumps(told, indent=2))  # noqa: T201
    return 0


# ---- the colony ----------------------------------------------------------------------------------


def colony(workers: int) -> Snapshot:
    """Four machines and so many workers, every other one at work."""
    kinds = data.WORKERS[:3]
    made = [
        msgspec.structs.replace(kinds[at % 3], worker_id=f"w-{at + 1:02d}") for at in range(workers)
    ]
    return msgspec.structs.replace(data.full(), workers=made)


@contextmanager
def living(workers: int) -> Iterator[ColonyDouble]:
    """A double that tells something each second until this is left."""
    snapshot = colony(workers)
    over = threading.Event()
    with ColonyDouble(snapshot, after=data.telemetry(), version=_version()) as double:

        def tell() -> None:
            samples = data.telemetry()
            at = 0
            while not over.wait(1.0):
                at += 1
                for name, payload in samples[3 * (at % 59) : 3 * (at % 59) + 3]:
                    double.push(name, payload)
                for worker in snapshot.workers[:CHANGING]:
                    if worker.state is WorkerState.BUSY:
                        speed = 60.0 + (at * 7 + int(worker.worker_id[2:])) % 20
                        now = msgspec.structs.replace(worker, tokens_per_second=speed)
                        double.push("worker", now)
                double.push("totals", msgspec.structs.replace(data.TOTALS, uptime_seconds=at))

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield double
        finally:
            over.set()
            thread.join(3)


def _version() -> str:
    from rbee import __version__

    return __version__


# ---- the program ---------------------------------------------------------------------------------


class Terminal:
    """`rbee` in a pseudo-terminal of its own; what it writes is read all the time."""

    def __init__(self, url: str, home: Path) -> None:
        self.written = bytearray()
        self.began = time.perf_counter()
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", SIZE[1], SIZE[0], 0, 0))
        env = {
            "PATH": os.environ["PATH"], "HOME": str(home), "RBEE_HOME": str(home),
            "RBEE_QUEEN_URL": url, "TERM": "xterm-256color", "COLORTERM": "truecolor",
            "LANG": "C.UTF-8",
        }  # fmt: skip
        self.process = subprocess.Popen(
            [str(Path(sys.executable).with_name("rbee"))],
            stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self._master = master
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def known(self) -> psutil.Process:
        """For its figures."""
        return psutil.Process(self.process.pid)

    def shown(self, words: str, limit: float = 30.0) -> float:
        """Seconds from the start until this was written."""
        until = time.perf_counter() + limit
        wanted = words.encode()
        while wanted not in self.written:
            if time.perf_counter() > until or self.process.poll() is not None:
                raise TimeoutError(f"{words!r} was not shown: {bytes(self.written[-400:])!r}")
            time.sleep(0.002)
        return time.perf_counter() - self.began

    def press(self, keys: bytes) -> None:
        """As typed."""
        os.write(self._master, keys)

    def end(self) -> None:
        """Its terminal goes away, and it with it."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._over.set()
        self._reader.join()  # a closed number may be another file's by the next read
        os.close(self._master)

    def _read(self) -> None:
        while not self._over.is_set():
            if not select.select([self._master], [], [], _LOOK_SECONDS)[0]:
                continue
            try:
                block = os.read(self._master, 1 << 16)
            except OSError:  # Linux says so when nobody has the other side any more
                return
            self.written += block


@contextmanager
def terminal(double: ColonyDouble) -> Iterator[Terminal]:
    """A started program, whose colony is on the screen."""
    with tempfile.TemporaryDirectory(prefix="rbee-bench-") as home:
        shown = Terminal(double.url, Path(home))
        try:
            shown.shown("w-01")
            yield shown
        finally:
            shown.end()


def starts(count: int) -> dict[str, float]:
    """Milliseconds until something, and until the colony, is on the screen."""
    first: list[float] = []
    full: list[float] = []
    spent: list[float] = []
    for number in range(count):
        say(f"start {number + 1} of {count}")
        with living(12) as double, tempfile.TemporaryDirectory(prefix="rbee-bench-") as home:
            shown = Terminal(double.url, Path(home))
            try:
                first.append(shown.shown("queen") * 1000)
                full.append(shown.shown("w-01") * 1000)
                used = shown.known.cpu_times()
                spent.append(used.user + used.system)
            finally:
                shown.end()
    return {
        "first_frame_ms": round(percentile(first, 0.5)),
        "colony_ms": round(percentile(full, 0.5)),
        "colony_ms_worst": round(max(full)),
        "cpu_s": round(percentile(spent, 0.5), 2),
    }


def idle(workers: int, seconds: float) -> dict[str, float]:
    """CPU of a core and memory of the dashboard, nothing pressed."""
    with living(workers) as double, terminal(double) as shown:
        say(f"{seconds:g} s of idling with {workers} workers")
        time.sleep(SETTLE)
        return _watched(shown, seconds)


def modes(seconds: float) -> dict[str, float]:
    """CPU of a core on each screen: what is hidden costs nothing, so that none adds up."""
    found: dict[str, float] = {}
    with living(12) as double, terminal(double) as shown:
        for number, mode in enumerate(MODES, 1):
            say(f"{seconds:g} s of {mode}")
            shown.press(b"\x0f")
            time.sleep(0.5)
            shown.press(str(number).encode())
            time.sleep(SETTLE)
            found[mode] = _watched(shown, seconds)["cpu_percent"]
        shown.press(b"\x0f")
        time.sleep(0.5)
        shown.press(b"1")
        time.sleep(SETTLE)
        found["dashboard, all visited"] = _watched(shown, seconds)["cpu_percent"]
    return found


def _watched(shown: Terminal, seconds: float) -> dict[str, float]:
    process = shown.known
    before, began, bytes_before = process.cpu_times(), time.perf_counter(), len(shown.written)
    time.sleep(seconds)
    after, took = process.cpu_times(), time.perf_counter() - began
    used = after.user + after.system - before.user - before.system
    return {
        "cpu_percent": round(100 * used / took, 1),
        "rss_mib": round(process.memory_info().rss / MIB, 1),
        "bytes_per_second": round((len(shown.written) - bytes_before) / took),
    }


# ---- frames --------------------------------------------------------------------------------------


async def frames(workers: int) -> dict[str, float]:
    """CPU of this thread, milliseconds, for one second's changes: rows, layout and painting."""
    say(f"{FRAMES} frames with {workers} workers")
    snapshot = colony(workers)
    with ColonyDouble(snapshot, after=data.telemetry()) as double:
        app = app_for(double)
        async with app.run_test(size=SIZE) as pilot:
            await connected(pilot)
            samples = [payload for _, payload in data.telemetry()]
            spent = [await _frame(app, pilot.pause, samples, snapshot, n) for n in range(FRAMES)]
    spent = spent[10:]
    return {
        "p50": round(percentile(spent, 0.5), 1),
        "p99": round(percentile(spent, 0.99), 1),
    }


async def _frame(
    app: Any,
    pause: Callable[[], Any],
    samples: list[Any],
    snapshot: Snapshot,
    number: int,
) -> float:
    began = time.thread_time()
    for sample in samples[3 * (number % 59) : 3 * (number % 59) + 3]:
        if isinstance(sample, Telemetry):
            app.store.apply("telemetry", sample)
    for worker in snapshot.workers[:CHANGING]:
        now = msgspec.structs.replace(worker, tokens_per_second=60.0 + number % 20)
        app.store.apply("worker", now)
    app.screen.repaint()
    await pause()
    return (time.thread_time() - began) * 1000


def say(words: str) -> None:
    """To the one who waits."""
    sys.stderr.write(f"{words}\n")


if __name__ == "__main__":
    sys.exit(main())
