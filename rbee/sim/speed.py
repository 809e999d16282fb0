"""The law by which simulated machines are fast: work that goes on at rates, and who gets how much.

What is assumed, and nothing more:

- A generated token reads the weights once: one stream makes `REACHED` × bandwidth / size tokens/s.
- k streams of a worker each go on at 1 / (1 + crowd × (k − 1)) of that, by the kind of device.
- Prompts are read at tflops / (2 × parameters) tokens/s, shared by the prompts a worker reads;
  while others of its streams write, prompts get half of its time.
- Workers that compute on one device at the same time share it evenly.
- Models that load on one machine at the same time share its disk.

REACHED: RTX 4090, Q4_K_M files of 5.7, 16.8 and 18.3 GB: 137, 47 and 35 tokens/s
(https://pavlokhmel.com/llm_throughput_benchmark_on_13_gpus_and_10_models.html) are 0.64 to 0.78 of
1008 GB/s. CROWD is a guess in the order of what batching wins there; a CPU wins little.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass

REACHED = 0.7
CROWD = {"cuda": 0.12, "metal": 0.3, "vulkan": 0.25, "cpu": 0.55}
WRITING_SHARE = 0.5
"""Of a worker's time while it also reads prompts."""
NEARLY = 1e-9
"""Seconds: what would take less has ended."""


@dataclass(eq=False)
class Part:
    """Something that goes on until nothing is left of it."""

    left: float
    done: Callable[[], None]
    """Called when it has ended, with its fluid settled."""
    rate: float = 0.0
    """Per second."""


class Fluid(ABC):
    """Parts that share something, so that their rates change whenever one begins or ends."""

    def __init__(self) -> None:
        self.version = 0
        """What was foreseen before it changed is not true any more."""
        self._at = 0.0

    @abstractmethod
    def parts(self) -> Iterable[Part]:
        """What goes on."""

    @abstractmethod
    def share(self) -> None:
        """Set every part's rate."""

    def settle(self, now: float) -> None:
        """Count what was done up to now."""
        span = now - self._at
        if span > 0:
            for part in self.parts():
                part.left -= part.rate * span
        self._at = now

    def next_end(self) -> float | None:
        """Share anew; seconds until the first part ends, None: there is none."""
        self.version += 1
        self.share()
        ends = [max(0.0, p.left) / p.rate for p in self.parts() if p.rate > 0]
        return min(ends) if ends else None

    def ended(self) -> list[Part]:
        """Those of which nothing is left."""
        return [p for p in self.parts() if p.left <= p.rate * NEARLY]


def decode_rate(kind: str, bandwidth: float, size: int, streams: int) -> float:
    """Tokens a second of each of so many streams; bandwidth in GB/s, size in bytes."""
    crowd = CROWD.get(kind, CROWD["cpu"])
    return REACHED * bandwidth * 1e9 / max(1, size) / (1 + crowd * (streams - 1))


def prefill_rate(tflops: float, parameters: float) -> float:
    """Prompt tokens a second."""
    return tflops * 1e12 / (2 * max(1.0, parameters))


def alone(
    kind: str, bandwidth: float, tflops: float, *, size: int, parameters: float, prompt: int,
    answer: int,
) -> float:  # fmt: skip
    """Seconds a request takes there when nothing else goes on and the model is loaded."""
    if not answer:
        return math.inf
    reading = prompt / prefill_rate(tflops, parameters)
    return reading + answer / decode_rate(kind, bandwidth, size, 1)
