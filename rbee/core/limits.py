"""The numbers of the behaviour page that the brain obeys."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Seconds. Each is a setting of the same name in the section `worker`."""

    load_timeout: float = 300.0
    keep_alive: float = 300.0
    stale_after: float = 6.0
    remove_after: float = 30.0
    stop_limit: float = 30.0
    """Not a setting: after the hive's own limits, when even SIGKILL has not ended a worker."""
