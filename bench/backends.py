"""Backends beside each other, asked directly: what a model costs to load, to hold and to answer.

`python -m bench.backends llamacpp=FILE.gguf torch=FOLDER …` measures each in a process of its own,
in turn, three rounds of all, and prints medians: seconds to load (libraries included), memory of
the process, milliseconds to the first token of a prompt of some 300 tokens, tokens per second of
one answer and of four at once. Greedy, 64 tokens. Nothing is written.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from rbee import registry
from rbee.backend_api import Done, Generation, Item, LoadOptions, ModelFile, Piece

_CTX, _SLOTS, _TOKENS, _ROUNDS = 1024, 4, 64, 3
_LIMIT = 600.0
_LONG = "The bees fly over the hill and back again to the hive with what they found. " * 18
_FIGURES = ("load_s", "rss_mib", "first_ms", "one_tps", "four_tps")


class _Ends:
    """Waits for answers to end."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.first: dict[str, float] = {}
        self.ended: dict[str, Item] = {}

    def deliver(self, items: Sequence[tuple[str, Item]]) -> None:
        with self._changed:
            for name, item in items:
                if isinstance(item, Piece):
                    self.first.setdefault(name, time.perf_counter())
                elif isinstance(item, Done | Exception):
                    self.ended[name] = item
            self._changed.notify_all()

    def wait(self, names: Sequence[str]) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: all(n in self.ended for n in names), _LIMIT):
                raise TimeoutError(f"{names} did not end")
        for name in names:
            if isinstance(last := self.ended[name], Exception):
                raise last


def measure(backend: str, path: Path, threads: int) -> dict[str, float]:
    """All figures of one backend, in this process."""
    import psutil

    began = time.perf_counter()
    form = "gguf" if path.is_file() else "safetensors"
    options = LoadOptions(device="cpu", slots=_SLOTS, ctx=_CTX, threads=threads)
    loader = registry.load(backend).create()
    file = ModelFile("bench", path.resolve(), form)
    model = loader.load(file, options, lambda *_: None, threading.Event())
    loaded = time.perf_counter() - began
    ends = _Ends()
    model.start(ends.deliver)

    def ask(*prompts: str, tokens: int = _TOKENS) -> tuple[float, list[str]]:
        names = [f"{len(ends.ended)}-{number}" for number in range(len(prompts))]
        start = time.perf_counter()
        for name, prompt in zip(names, prompts, strict=True):
            request = Generation(
                prompt=prompt, temperature=0, max_tokens=tokens, ignore_eos=True, cache=False
            )
            model.submit(name, request)
        ends.wait(names)
        return time.perf_counter() - start, names

    ask("Once", tokens=4)
    start = time.perf_counter()
    _, (name,) = ask(_LONG, tokens=1)
    first = ends.first[name] - start
    one, _ = ask("Once upon a time")
    four, _ = ask(*(f"{number} times upon a time" for number in range(_SLOTS)))
    return {
        "load_s": loaded,
        "rss_mib": psutil.Process().memory_info().rss / (1 << 20),
        "first_ms": first * 1000,
        "one_tps": _TOKENS / one,
        "four_tps": _SLOTS * _TOKENS / four,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; 1 when something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.backends")
    parser.add_argument("models", nargs="+", metavar="BACKEND=PATH")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--once", action="store_true", help="one measurement, as JSON")
    wanted = parser.parse_args(argv)
    pairs = [text.partition("=")[::2] for text in wanted.models]
    if wanted.once:
        ((backend, path),) = pairs
        sys.stdout.write(json.dumps(measure(backend, Path(path), wanted.threads)) + "\n")
        return 0
    found: dict[str, list[dict[str, float]]] = {text: [] for text in wanted.models}
    for _ in range(_ROUNDS):
        for text, rounds in found.items():
            command = [sys.executable, "-m", "bench.backends", "--once", text]
            done = subprocess.run(
                [*command, "--threads", str(wanted.threads)],
                capture_output=True,
                text=True,
                timeout=_LIMIT,
                check=False,
            )
            if done.returncode:
                sys.stderr.write(f"{text}: {done.stderr.strip().splitlines()[-1:]}\n")
                return 1
            rounds.append(json.loads(done.stdout.splitlines()[-1]))
    sys.stdout.write(f"{'':40}" + "".join(f"{name:>10}" for name in _FIGURES) + "\n")
    for text, rounds in found.items():
        middle = [statistics.median(one[name] for one in rounds) for name in _FIGURES]
        sys.stdout.write(f"{text[-40:]:40}" + "".join(f"{x:10.1f}" for x in middle) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
