"""The numbers of the behaviour page that the brain obeys."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Seconds where nothing else is said. Each is a setting of this name in section `worker`."""

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
