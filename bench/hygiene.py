"""`python -m bench.hygiene`: thousands of short requests, many cancelled, through one worker.

Looks for what leaks: memory that grows, slots that stay busy, a worker that dies. Lengths, prompts,
stop strings and the moment and way of cancelling (leaving, or POST /v1/cancel) are random, from a
seed that is told. Exit code 1 when a slot stays busy, the worker dies, or an answer fails.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import anyio

from bench import models, prompts
from bench.client import STREAM_LIMIT, Request, Stream, connect
from bench.dialects import Ask, read_answer
from bench.http_bytes import BadReply
from bench.places import RESULTS
from bench.processes import Memory, ServerDied, memory
from bench.report import number, write_json
from bench.servers import Setup
from bench.servers_rbee import Sink, Worker
from rbee.hardware.cpu import physical_cores

SAMPLE_SECONDS = 1.0
WARM_UP = 0.2
"""Share of the requests after which growth counts: caches of bounded size have filled by then."""
SETTLE_LIMIT = 15.0
MIB = 1 << 20
BUSY = "busy"
STOPS = ("the", " time", "er", "\n\n", ".")


@dataclass(frozen=True)
class Sample:
    """The worker at one moment."""

    at: float
    """Seconds since the start."""
    ended: int
    rss: int
    pss: int
    busy: int


@dataclass
class Tally:
    """What became of the requests."""

    counts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    """Tries that met no free slot; each was made again until it was taken."""
    samples: list[Sample] = field(default_factory=list)

    @property
    def ended(self) -> int:
        """All that are over, in whatever way."""
        return sum(self.counts.values())


class Storm:
    """So many clients that send until so many requests have ended."""

    def __init__(self, worker: Worker, *, requests: int, clients: int, seed: int) -> None:
        self._worker = worker
        self._left = requests
        self._total = requests
        self._clients = clients
        self._seed = seed
        self._began = time.monotonic()
        self.tally = Tally()

    async def run(self) -> None:
        """All of them. Raises ServerDied."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._sample)
            async with anyio.create_task_group() as clients:
                for number_ in range(self._clients):
                    clients.start_soon(self._client, random.Random(self._seed + number_))
            tasks.cancel_scope.cancel()

    async def _client(self, chance: random.Random) -> None:
        while self._left > 0:
            self._left -= 1
            self._worker.process.check()
            request = self._worker.request(random_ask(chance))
            while (became := await self._one(request, chance)) == BUSY:
                self.tally.refused += 1
                await anyio.sleep(chance.uniform(0.02, 0.08))
            self.tally.counts[became] += 1

    async def _one(self, request: Request, chance: random.Random) -> str:
        """One try: `done`, `left`, `cancelled`, `failed`, or `busy`, to be tried again."""
        way = chance.choices(("stay", "leave", "cancel"), (6, 2, 2))[0]
        patience = chance.uniform(0, 0.4)
        try:
            stream = await connect(self._worker.host, self._worker.port)
        except (OSError, TimeoutError) as exc:
            return self._failed(f"no connection: {type(exc).__name__}")
        try:
            stream.send(request.encode(self._worker.host, self._worker.port))
            with anyio.move_on_after(STREAM_LIMIT if way == "stay" else patience):
                await stream.ended.wait()
            if not stream.ended.is_set() and way == "leave":
                return "left"
            if not stream.ended.is_set() and way == "cancel":
                await self._worker.cancel(request_id(request))
                with anyio.move_on_after(STREAM_LIMIT):
                    await stream.ended.wait()
            return self._judged(stream)
        except (OSError, TimeoutError, BadReply) as exc:
            return self._failed(f"{type(exc).__name__}: {exc}")
        finally:
            stream.close()

    def _judged(self, stream: Stream) -> str:
        if not stream.ended.is_set():
            return self._failed(f"no end within {STREAM_LIMIT:.0f} s")
        answer = read_answer(stream.reply(), self._worker.read)
        if "ALL_SLOTS_BUSY" in answer.error:
            return BUSY
        if answer.error:
            return self._failed(answer.error)
        return "cancelled" if answer.finish == "cancelled" else "done"

    def _failed(self, why: str) -> str:
        self.tally.errors[why[:200]] += 1
        return "failed"

    async def _sample(self) -> None:
        told = 0
        while True:
            await self.sample()
            tenth = self.tally.ended * 10 // self._total
            if tenth > told:
                told, last = tenth, self.tally.samples[-1]
                say(
                    f"{last.at:6.0f} s  {last.ended} of {self._total} requests,"
                    f" RSS {last.rss / MIB:.1f} MiB, {last.busy} slots busy"
                )
            await anyio.sleep(SAMPLE_SECONDS)

    async def sample(self) -> Sample:
        """Look at the worker now."""
        now: Memory = memory(self._worker.pids())
        try:
            busy = int((await self._worker.health())["slots_busy"])
        except (OSError, TimeoutError, BadReply, ValueError, KeyError):
            busy = -1  # told as it is: the worker did not answer at that moment
        sample = Sample(time.monotonic() - self._began, self.tally.ended, now.rss, now.pss, busy)
        self.tally.samples.append(sample)
        return sample

    async def settled(self) -> bool:
        """Whether all slots are idle soon after the last request."""
        with anyio.move_on_after(SETTLE_LIMIT):
            while True:
                if (await self.sample()).busy == 0:
                    return True
                await anyio.sleep(0.1)
        return False


def random_ask(chance: random.Random) -> Ask:
    """A short request: 1 to 80 words, now and then a shared beginning, 1 to 24 tokens."""
    prompt = prompts.text(chance.randint(1, 80), chance)
    if chance.random() < 0.3:
        prompt = prompts.text(64, random.Random(chance.randrange(4))) + prompt
    stop = tuple(chance.sample(STOPS, chance.randint(1, 2))) if chance.random() < 0.3 else ()
    return Ask(
        prompt,
        chance.randint(1, 24),
        sampled=chance.random() < 0.5,
        seed=chance.randrange(1 << 31),
        stop=stop,
        ignore_eos=chance.random() < 0.5,
    )


def request_id(request: Request) -> str:
    """Of a request to a worker."""
    return str(json.loads(request.body)["request_id"])


def growth(samples: Sequence[Sample], total: int) -> dict[str, float]:
    """RSS in MiB after the warm-up (median of the next tenth), at the end, and the difference."""
    begin = [s.rss for s in samples if WARM_UP * total <= s.ended < (WARM_UP + 0.1) * total]
    end = [s.rss for s in samples if s.ended >= 0.9 * total]
    if not begin or not end:
        return {}
    first, last = statistics.median(begin) / MIB, statistics.median(end) / MIB
    return {"after_warm_up": first, "at_end": last, "growth": last - first}


async def storm(options: argparse.Namespace) -> int:
    """Start, run, tell."""
    setup = Setup(models.prepare("q4_0", say), options.slots, options.ctx, physical_cores())
    sink = Sink()
    code = 1
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: sink.serve(task_status=task_status))
        worker = await Worker.start(setup, sink.url)
        try:
            code = await _stormed(worker, options)
        finally:
            await worker.stop()
        tasks.cancel_scope.cancel()
    return code


async def _stormed(worker: Worker, options: argparse.Namespace) -> int:
    run = Storm(worker, requests=options.requests, clients=options.clients, seed=options.seed)
    died = ""
    settled = False
    try:
        await run.run()
        settled = await run.settled()
    except* ServerDied as group:
        died = str(group.exceptions[0])
    grown = growth(run.tally.samples, options.requests)
    _tell(run.tally, grown, settled, died)
    path = RESULTS / "hygiene.json"
    write_json(path, as_json(run.tally, grown, settled, vars(options)))
    say(f"written: {path}")
    return 0 if settled and not died and not run.tally.errors else 1


def as_json(
    tally: Tally, grown: dict[str, float], settled: bool, options: dict[str, Any]
) -> dict[str, Any]:
    """Everything, the samples included."""
    return {
        "options": options,
        "requests": dict(tally.counts),
        "errors": dict(tally.errors),
        "refused_for_want_of_a_slot": tally.refused,
        "all_slots_idle": settled,
        "rss_mib": grown,
        "samples": [vars(sample) for sample in tally.samples],
    }


def _tell(tally: Tally, grown: dict[str, float], settled: bool, died: str) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in tally.counts.most_common())
    lines = [f"requests: {counts or 'none ended'}; {tally.refused} tries met no free slot"]
    if grown:
        lines.append(
            f"RSS: {number(grown['after_warm_up'])} MiB after the warm-up,"
            f" {number(grown['at_end'])} MiB at the end ({grown['growth']:+.1f} MiB)"
        )
    else:
        lines.append("RSS: too few samples to tell growth")
    lines.append("all slots idle at the end" if settled else "slots were NOT all idle at the end")
    lines += [f"failed {count} times: {why}" for why, count in tally.errors.most_common(10)]
    if died:
        lines.append(f"the worker died: {died}")
    sys.stdout.write("\n".join(lines) + "\n")


def say(text: str) -> None:
    """Narration."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.hygiene", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--ctx", type=int, default=1024, help="tokens a slot")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no worker may be left behind
    loop = {"use_uvloop": find_spec("uvloop") is not None}
    try:
        return anyio.run(storm, options, backend_options=loop)
    except KeyboardInterrupt:
        say("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main())
