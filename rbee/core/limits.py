"""The numbers of the behaviour page that the brain obeys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """Seconds where nothing else is said. Most are settings of this name in section `worker`."""

    load_timeout: float = 300.0
    keep_alive: float = 300.0
    stale_after: float = 6.0
    remove_after: float = 30.0
    flash_attention: str = "auto"
    max_gap_ms: float = 200.0
    """Milliseconds the answers of a worker may be held up by the prompt of another."""
    prompt_cache_mb: int = 256
    stop_limit: float = 30.0
    """Not a setting: after the hive's own limits, when even SIGKILL has not ended a worker."""
    attempts: int = 5
    """Times a job is tried at most (`job.attempts`)."""
    hive_return: float = 60.0
    """Jobs wait so long for a hive that went offline, when no other can do them (`hive.lease`: past
    it the hive's workers have gone too)."""
    swap_patience: float = 30.0
    """A job waits at most so much longer for others' use of a model that it would displace
    (`queen.swap_patience`)."""
    preempt_after: float = 10.0
    """An interactive job that waits so long has a running batch job put back
    (`queen.preempt_after`)."""
    keep_alives: Mapping[str, float] = field(default_factory=dict[str, float])
    """Model id → seconds in place of keep_alive; inf: for ever."""
    min_workers: Mapping[str, int] = field(default_factory=dict[str, int])
    """Model id → workers that are kept up whether they are used or not."""
    max_workers: Mapping[str, int] = field(default_factory=dict[str, int])
    """Model id → workers at most."""

    def keep_alive_of(self, model_id: str) -> float:
        """Seconds an idle worker of the model is kept."""
        return self.keep_alives.get(model_id, self.keep_alive)

    def most_workers(self, model_id: str) -> float:
        """How many workers of the model there may be."""
        return self.max_workers.get(model_id, math.inf)
