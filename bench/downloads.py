"""`python -m bench.downloads`: what a download of 2 GiB costs the queen and the stream beside it.

A queen with her own hive, in one process, the harder case; a hub of the tests' on loopback that
serves a sparse file as fast as it is taken, or at `--rate`. The stream is of the echo backend, a
token each 20 ms. Told: gaps between tokens alone, beside processes that only compute (the hub and
the hashing need two cores too), and beside the download; the process's memory before, at its
highest and after; how fast the file came. Figures to stdout, the rest to stderr.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.figures import percentile
from tests.support.hub_fixture import StandIn
from tests.support.tiny_gguf import llama

REPO, FILE = "bench/sparse", "sparse.Q8_0.gguf"
DELAY_MS, CTX = 20, 400_000
MIB = 1 << 20


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.downloads", description=__doc__)
    parser.add_argument("--mib", type=int, default=2048, help="size of the file (2048)")
    parser.add_argument("--rate", type=int, default=0, help="MB/s of the hub, 0: all it has (0)")
    parser.add_argument("--quiet-seconds", type=int, default=10, help="measured without it (10)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="rbee-bench-") as place:
        folder = Path(place)
        with StandIn(folder / "hub") as hub:
            add_sparse(hub, options.mib * MIB)
            if options.rate:
                hub.fault("/cdn/", "slow", rate=options.rate * 1_000_000, times=0)
            with queen(folder / "home", hub) as http:
                measured = measure(http, folder / "home", options.quiet_seconds)
    print(json.dumps(measured, indent=2))  # noqa: T201
    return 0 if measured["state"] == "completed" else 1


def add_sparse(hub: StandIn, size: int) -> None:
    """A tiny model that loads, with nothing behind it up to `size` bytes."""
    say(f"a file of {size / MIB:.0f} MiB is made and hashed")
    head = llama().data()
    hasher, left, zeros = hashlib.sha256(head), size - len(head), bytes(MIB)
    while left:
        count = min(left, MIB)
        hasher.update(zeros[:count])
        left -= count
    folder = hub.add(REPO, {FILE: head}, sha256={FILE: hasher.hexdigest()})
    with (folder / FILE).open("r+b") as file:
        file.truncate(size)


@contextmanager
def queen(home: Path, hub: StandIn) -> Iterator[httpx.Client]:
    """One that runs, as a client of her."""
    env = {
        "PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "RBEE_HOME": str(home),
        "RBEE_QUEEN_PORT": "0", "RBEE_WORKER_CTX": str(CTX), **hub.env,
    }  # fmt: skip
    home.mkdir()
    command = [str(Path(sys.executable).with_name("rbee")), "queen"]
    subprocess.run([*command, "start"], env=env, check=True, stdout=sys.stderr)
    state = json.loads((home / "state" / "queen.json").read_bytes())
    try:
        owner = {"Authorization": f"Bearer {(home / 'state' / 'owner.token').read_text('ascii')}"}
        with httpx.Client(
            base_url=state["url"], headers=owner, timeout=300, trust_env=False
        ) as http:
            yield http
    finally:
        subprocess.run([*command, "stop"], env=env, check=False, stdout=sys.stderr)
        shutil.rmtree(home, ignore_errors=True)


def measure(http: httpx.Client, home: Path, quiet: int) -> dict[str, Any]:
    """Without, then with."""
    process = psutil.Process(json.loads((home / "state" / "queen.json").read_bytes())["pid"])
    with beside(http) as gaps:
        until(lambda: len(gaps) > 20)
        say(f"{quiet} s of the stream alone")
        time.sleep(quiet)
        alone, before = gaps[20:], process.memory_info().rss
        say(f"{quiet} s of it beside two processes that only compute")
        crowded = len(gaps)
        with busy(2):
            time.sleep(quiet)
        beside_busy = gaps[crowded:]
        job = http.post(
            "/v1/jobs", json={"operation": "model_download", "model": f"hf:{REPO}:Q8_0"}
        )
        if job.is_error:
            raise RuntimeError(f"no download: {job.text[:500]}")
        say("the download begins")
        begun, start, cpu = len(gaps), time.monotonic(), sum(process.cpu_times()[:2])
        highest, state, told = before, "", job.json()
        while state not in ("completed", "failed", "cancelled"):
            highest = max(highest, process.memory_info().rss)
            told = http.get(f"/v1/jobs/{job.json()['job_id']}").json()
            state = told["state"]
            time.sleep(0.1)
        ended = time.monotonic() - start
        during = gaps[begun:]
        cpu = sum(process.cpu_times()[:2]) - cpu
        after = process.memory_info().rss
    size = sum(f.stat().st_size for f in (home / "data/models").rglob("*.gguf"))
    return {
        "state": state,
        "error": told.get("error"),
        "megabytes": round(size / 1e6),
        "seconds": round(ended, 2),
        "megabytes_a_second": round(size / 1e6 / ended, 1),
        "cpu_seconds_of_the_process": round(cpu, 2),
        "rss_mib": {"before": before // MIB, "highest": highest // MIB, "after": after // MIB},
        "gaps_ms_alone": spread(alone),
        "gaps_ms_beside_two_busy_processes": spread(beside_busy),
        "gaps_ms_beside_the_download": spread(during),
    }


@contextmanager
def beside(http: httpx.Client) -> Iterator[list[float]]:
    """The gaps between the tokens of a stream, in seconds, as they come."""
    gaps: list[float] = []
    stop = threading.Event()
    words = f"@delay={DELAY_MS} @repeat={CTX // 4} word"
    body = {
        "model": "echo", "stream": True, "max_tokens": CTX // 4,
        "messages": [{"role": "user", "content": words}],
    }  # fmt: skip

    def read() -> None:
        with http.stream("POST", "/v1/chat/completions", json=body) as reply:
            reply.raise_for_status()
            last = 0.0
            for block in reply.iter_raw():
                if stop.is_set():
                    return
                for _ in re.finditer(rb'"content":"word', block):
                    now = time.monotonic()
                    if last:
                        gaps.append(now - last)
                    last = now

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield gaps
    finally:
        stop.set()
        reader.join(30)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """As much company as the hub and the download give, that has nothing to do with either."""
    command = [sys.executable, "-c", "while True: sum(range(10000))"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def spread(gaps: Sequence[float]) -> dict[str, float]:
    """Milliseconds."""
    told = {"count": float(len(gaps))}
    for share in (50, 99, 100):
        told[f"p{share}"] = round(percentile(gaps, share / 100) * 1000, 1)
    return told


def until(condition: Any, limit: float = 60.0) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the stream did not begin")
        time.sleep(0.05)


def say(text: str) -> None:
    """To stderr."""
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
