"""`python -m bench.links`: what machines cost that are reached over SSH.

Real sshds, hives, workers and a queen, all on this machine; the way between them is loopback, so
that what is told is computing and not a network. Idle: memory and CPU of a queen with no link, one
and many, and of a hive nobody asks anything. Events: CPU of a token from an echo worker, in the
queen and in what carries it, from her own hive, through the system's ssh and through her own
connection, in turn. Requests: how long one takes over each way. Times: adding, coming back after
a cut, and after the queen was killed. Figures to stdout, the rest to stderr.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import psutil

from bench.figures import percentile, ratio
from bench.machine import common
from bench.processes import cpu_seconds, memory
from bench.ssh_yard import Queen, Yard
from tests.support.home import processes_of, wait_for

MIB = 1 << 20
STREAMS, DELAY_MS = 8, 10
WAYS = {"local": "", "ssh -L": "system-ssh", "asyncssh": "ssh"}
HIVES = {"local": "home", "ssh -L": "sys", "asyncssh": "own"}
SETTLE = 10.0
"""Seconds at most for a start to be over before something is measured."""
BACKGROUND = 4.0
"""Seconds at most of idling before a load."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.links", description=__doc__)
    parser.add_argument("--links", type=int, default=50, help="of one queen (50)")
    parser.add_argument("--seconds", type=float, default=60, help="of idling (60)")
    parser.add_argument("--tokens", type=int, default=500, help="of each stream (500)")
    parser.add_argument("--rounds", type=int, default=4, help="of events and of times (4)")
    parser.add_argument("--requests", type=int, default=200, help="over each way (200)")
    parser.add_argument("--only", choices=("idle", "events", "times"), action="append")
    options = parser.parse_args(argv)
    only = options.only or ("idle", "events", "times")
    told: dict[str, Any] = {"measured": common()}
    with tempfile.TemporaryDirectory(prefix="rbee-bench-") as place:
        if "idle" in only:
            told["idle"] = idle(Path(place) / "i", options.links, options.seconds)
        if "events" in only:
            told |= carried(Path(place) / "e", options)
        if "times" in only:
            told["seconds"] = times(Path(place) / "t", options.rounds)
    print(json.dumps(told, indent=2))  # noqa: T201
    return 0


# ---- idle ----------------------------------------------------------------------------------------


def idle(folder: Path, links: int, seconds: float) -> dict[str, Any]:
    """No link, one, many: each with the hive behind it."""
    names = [f"m{number:03d}" for number in range(links)]
    found: dict[str, Any] = {}
    with Yard(folder) as yard:
        box = yard.box("rack", names)
        with yard.queen() as queen:

            def look(count: int) -> None:
                say(f"{seconds:g} s of idling with {count} links")
                time.sleep(min(SETTLE, seconds))
                hives = [p.pid for p in box.processes()]
                shells = [p.pid for p in processes_of(box.folder) if p.pid not in hives]
                shells += [p.pid for p in box.sshd.children()]
                groups = {"queen": [queen.process.pid], "hives": hives, "sshd": [*{*shells}]}
                before = {name: cpu_seconds(pids) for name, pids in groups.items()}
                began = time.monotonic()
                time.sleep(seconds)
                took = time.monotonic() - began
                rss = [rss_of(pid) for pid in hives]
                found[f"{count} links"] = {
                    "queen_rss_mib": round(rss_of(queen.process.pid), 1),
                    "hive_rss_mib": round(statistics.median(rss), 1) if rss else None,
                    "processes": {name: len(pids) for name, pids in groups.items()},
                    "cpu_percent": {
                        name: round(100 * (cpu_seconds(pids) - before[name]) / took, 2)
                        for name, pids in groups.items()
                    },
                }

            look(0)
            began = time.monotonic()
            for count, name in enumerate(names):
                queen.add(name, name)
                if count == 0:
                    look(1)
                    began = time.monotonic()
            found["adding_seconds_each"] = round((time.monotonic() - began) / max(1, links - 1), 2)
            for name in names:
                queen.until_online(name)
            look(links)
            say("the queen is killed, and all are followed again")
            hives = {p.pid for p in box.processes()}
            began = time.monotonic()
            queen.process.kill()
            queen.process.wait(10)
            with Queen(yard.home) as another:
                for name in names:
                    another.until_online(name)
                found["a_queen_killed"] = {
                    "seconds_until_all_are_followed": round(time.monotonic() - began, 2),
                    "hives_that_stayed": len(hives & {p.pid for p in box.processes()}),
                    "cpu_seconds_of_the_queen": round(cpu_seconds([another.process.pid]), 2),
                }
    none, one, many = (found[f"{count} links"] for count in (0, 1, links))
    found["a_link"] = {
        "rss_mib": round((many["queen_rss_mib"] - one["queen_rss_mib"]) / (links - 1), 2),
        "cpu_percent": round(
            (many["cpu_percent"]["queen"] - one["cpu_percent"]["queen"]) / (links - 1), 3
        ),
        "the_first_rss_mib": round(one["queen_rss_mib"] - none["queen_rss_mib"], 1),
    }
    return found


def rss_of(pid: int) -> float:
    """MiB."""
    return psutil.Process(pid).memory_info().rss / MIB


# ---- events and requests -------------------------------------------------------------------------


def carried(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What passes over each way, and how fast."""
    with Yard(folder) as yard:
        for name in ("sys", "own"):
            yard.box(name)
        with yard.queen() as queen:
            for way, forward in WAYS.items():
                if forward:
                    queen.add(HIVES[way], HIVES[way], forward=forward)
            workers = {way: queen.worker(hive) for way, hive in HIVES.items()}
            for way, forward in WAYS.items():
                via = queen.get(f"/v1/hives/{HIVES[way]}")["link"]["via"] if forward else ""
                if forward and via != way.replace("asyncssh", "ssh"):
                    raise RuntimeError(f"what was to go over {way} goes over {via}")
            pause = min(BACKGROUND, options.seconds)
            children = queen.process.children(True)
            ssh = [p.pid for p in children if p.name() in ("ssh", "sh")]
            return {
                "ssh_of_a_worker_pss_mib": round(memory(ssh).pss / MIB, 1),
                "events": events(yard, queen, workers, options.rounds, options.tokens, pause),
                "requests": waits(queen, workers, options.requests),
            }


def events(
    yard: Yard, queen: Queen, workers: dict[str, Any], rounds: int, tokens: int, pause: float
) -> dict[str, Any]:
    """CPU microseconds of a token, by process, in each round; `pause`: seconds of idling before
    each load, whose CPU does not count."""
    found: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
    prompt = f"@delay={DELAY_MS} @repeat={tokens} word"
    with ThreadPoolExecutor(STREAMS) as pool:
        for number in range(rounds + 1):
            for way, hive in HIVES.items():
                groups = {
                    "queen": [queen.process.pid],
                    "ssh": [p.pid for p in queen.process.children(True) if p.name() == "ssh"],
                    "sshd": sshd_of(yard, hive),
                    "worker": [workers[way]["pid"]],
                }
                background = spent(groups, lambda: time.sleep(pause))
                counts: list[int] = []

                def load(counts: list[int] = counts, hive: str = hive) -> None:
                    jobs = [queen.submit(prompt, hive) for _ in range(STREAMS)]
                    counts.extend(pool.map(queen.read, jobs))

                took = spent(groups, load)
                if number == 0:
                    continue  # the first one warms all up
                say(f"round {number}, {way}: {sum(counts)} events in {took['wall']:.1f} s")
                for name in groups:
                    idle_cpu = background[name] / background["wall"] * took["wall"]
                    each = (took[name] - idle_cpu) / sum(counts) * 1e6
                    found[way].setdefault(name, []).append(round(each, 1))
    beside: dict[str, Any] = {}
    for way in list(WAYS)[1:]:
        both = ratio(found[way]["queen"], found["local"]["queen"])
        beside[way] = both and [round(n, 2) for n in (both.per_round, both.low, both.high)]
    return {
        "microseconds_of_cpu_each": found,
        "medians": {
            way: {name: round(statistics.median(v), 1) for name, v in them.items()}
            for way, them in found.items()
        },
        "queen_beside_local": beside,
    }


def sshd_of(yard: Yard, hive: str) -> list[int]:
    """The server's processes for a machine's connections."""
    box = yard.boxes.get(hive)
    return [p.pid for p in box.sshd.children() if "sshd" in p.name()] if box else []


def spent(groups: dict[str, list[int]], what: Callable[[], None]) -> dict[str, float]:
    """CPU seconds of each group while it lasts, and how long that was."""
    before = {name: cpu_seconds(pids) for name, pids in groups.items()}
    began = time.monotonic()
    what()
    took = {name: cpu_seconds(pids) - before[name] for name, pids in groups.items()}
    return took | {"wall": time.monotonic() - began}


def waits(queen: Queen, workers: dict[str, Any], requests: int) -> dict[str, Any]:
    """Milliseconds of an answer of one token by the queen, and of a worker's health by its way."""
    jobs: dict[str, list[float]] = {way: [] for way in WAYS}
    bare: dict[str, list[float]] = {way: [] for way in WAYS}
    say(f"{requests} requests over each way, in turn")
    doors = {way: door_of(workers[way]["url"]) for way in WAYS}
    for number in range(requests + 20):
        for way, hive in HIVES.items():
            began = time.perf_counter()
            queen.read(queen.submit("one", hive))
            half = time.perf_counter()
            doors[way].get("/v1/health").raise_for_status()
            if number >= 20:
                jobs[way].append(half - began)
                bare[way].append(time.perf_counter() - half)
    for door in doors.values():
        door.close()
    return {
        "milliseconds": {way: spread(values) for way, values in jobs.items()},
        "milliseconds_of_the_way": {way: spread(values) for way, values in bare.items()},
    }


def door_of(url: str) -> httpx.Client:
    """A client of a worker, by the way the queen has to it."""
    parts = urlsplit(url)
    if parts.scheme == "http":
        return httpx.Client(base_url=url, trust_env=False)
    transport = httpx.HTTPTransport(uds=unquote(parts.netloc))
    return httpx.Client(base_url="http://localhost", transport=transport, trust_env=False)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Milliseconds out of seconds."""
    return {f"p{n}": round(percentile(values, n / 100) * 1000, 2) for n in (50, 90, 99)}


# ---- times ---------------------------------------------------------------------------------------


def times(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds of what a user waits for."""
    found: dict[str, list[float]] = {}

    def clock(name: str, began: float) -> None:
        found.setdefault(name, []).append(round(time.monotonic() - began, 2))

    with Yard(folder) as yard:
        queen = Queen(yard.home)
        for number in range(rounds):
            name = f"n{number}"
            say(f"round {number + 1}: added, cut, killed")
            box = yard.box(name)
            began = time.monotonic()
            done = yard.home.rbee("hive", "add", name, name)
            if done.returncode:
                raise RuntimeError(done.stderr)
            queen.until_online(name)
            clock("add, the hive started", began)
            queen.remove(name)
            wait_for(lambda box=box: not box.processes(), what="its hive is gone")
            began = time.monotonic()
            queen.add(name, name)
            clock("the same over HTTP", began)
            pid = queen.worker(name)["pid"]
            began = time.monotonic()
            box.sshd.cut()
            queen.until_online(name, False)
            queen.until_online(name)
            clock("cut until online again", began)
            began = time.monotonic()
            queen.process.kill()
            queen.process.wait(10)
            queen.http.close()
            queen = Queen(yard.home)
            clock("a queen killed, the next one answers", began)
            queen.until_online(name)
            clock("a queen killed, the hive is followed again", began)
            (worker,) = [w for w in queen.get("/v1/workers")["workers"] if w["hive"] == name]
            if worker["pid"] != pid:
                raise RuntimeError("its worker is another one")
            queen.remove(name)
        queen.http.close()
        yard.stopped()
    return found


def say(text: str) -> None:
    """To stderr."""
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
