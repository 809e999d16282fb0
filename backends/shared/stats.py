"""What the engine did and what it cost, for measurements.

Owns counters only. CPU time is the engine thread's own, outside of the library's computing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class Stats:
    """Written by the engine's thread, read by any."""

    steps: int = 0
    answers: int = 0
    """Tokens of answers computed."""
    prompt: int = 0
    """Tokens of prompts computed."""
    moves: int = 0
    compute_ms: float = 0.0
    between_ms: float = 0.0
    """From the end of one computing to the begin of the next."""
    cpu_ms: float = 0.0
    """CPU time of the engine's thread between computings."""
    _ended: float = 0.0
    _cpu: float = 0.0

    def begin(self) -> float:
        """Computing begins; returns the time."""
        now, cpu = time.perf_counter(), time.thread_time()
        if self._ended:
            self.between_ms += (now - self._ended) * 1000
            self.cpu_ms += (cpu - self._cpu) * 1000
        return now

    def end(self, began: float, *, answers: int, prompt: int) -> float:
        """Computing has ended; returns how many milliseconds it took."""
        self._ended, self._cpu = time.perf_counter(), time.thread_time()
        took = (self._ended - began) * 1000
        self.steps += 1
        self.answers += answers
        self.prompt += prompt
        self.compute_ms += took
        return took

    def pause(self) -> None:
        """There is nothing to do: the time until the next step does not count."""
        self._ended = 0.0

    def as_dict(self) -> Mapping[str, float]:
        """Names with their units."""
        return {
            "steps": self.steps,
            "answer_tokens": self.answers,
            "prompt_tokens": self.prompt,
            "moves": self.moves,
            "compute_ms": self.compute_ms,
            "between_ms": self.between_ms,
            "engine_cpu_ms": self.cpu_ms,
        }
