"""What is read off the colony at each scrape: how things are, as opposed to what was counted.

Owns the gauges' names and labels. Reads only, does nothing between scrapes; a worker's series end
with the worker.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from rbee import __version__
from rbee.protocol.workers import WorkerState

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from rbee.core.colony import Colony
    from rbee.core.fleet import Worker
    from rbee.daemons.queen.streams import Streams

_WORKER = ("worker", "hive", "model")
GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "rbee_queue_depth": ("Jobs that wait for a worker.", ("priority",)),
    "rbee_queue_oldest_seconds": ("How long the oldest of them has waited.", ()),
    "rbee_jobs_held_back": ("Jobs that wait for a pause after a failure to end.", ()),
    "rbee_jobs_running": ("Jobs on workers.", ()),
    "rbee_workers": ("Workers, by state.", ("state",)),
    "rbee_worker_slots": ("Requests that the worker runs at a time.", _WORKER),
    "rbee_worker_slots_busy": ("Requests that it runs.", _WORKER),
    "rbee_worker_tokens_per_second": ("Decode speed of one of its streams, as measured.", _WORKER),
    "rbee_worker_memory_bytes": ("Memory of its model and contexts, as it says.", _WORKER),
    "rbee_worker_resident_bytes": ("Resident memory of its process.", _WORKER),
    "rbee_device_memory_bytes": ("A device's memory.", ("hive", "device")),
    "rbee_device_memory_free_bytes": ("What of it is free.", ("hive", "device")),
    "rbee_hives": ("Hives that are known.", ()),
    "rbee_hives_online": ("Hives that answer.", ()),
    "rbee_tokens_per_second": ("Tokens of all answers, over the last seconds.", ()),
    "rbee_streams_open": ("Streams of jobs that have not ended.", ()),
    "rbee_stream_readers": ("Readers that wait for something new in them.", ()),
    "rbee_downloads_running": ("Models on their way to a hive, copies included.", ()),
    "rbee_uptime_seconds": ("How long the queen runs.", ()),
}
"""Name → meaning, labels. `rbee_build_info{version, python}` is told besides."""


class Observed(Protocol):
    """What of the queen is looked at."""

    colony: Colony
    streams: Streams

    def downloads(self) -> int:
        """Models on their way."""
        ...

    def uptime(self) -> float:
        """Seconds."""
        ...


def read(queen: Observed) -> Iterator[Metric]:
    """All gauges as they are now."""
    from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily

    for name, values in _values(queen).items():
        meaning, labels = GAUGES[name]
        gauge = GaugeMetricFamily(name, meaning, labels=labels)
        for key, value in values.items():
            gauge.add_metric(key, value)
        yield gauge
    build = {"version": __version__, "python": platform.python_version()}
    yield InfoMetricFamily("rbee_build", "What runs here.", value=build)


def _values(queen: Observed) -> dict[str, dict[tuple[str, ...], float]]:
    """Name → label values → value."""
    colony, fleet, totals = queen.colony, queen.colony.fleet, queen.colony.totals()
    oldest = colony.queue.oldest()
    open_streams, readers = _streams(queen)
    states = Counter(worker.state for worker in fleet.workers.values())
    devices = [(hive, device) for hive in fleet.hives.values() for device in hive.devices]
    single = {
        "rbee_queue_oldest_seconds": max(0.0, colony.now - oldest) if oldest is not None else 0.0,
        "rbee_jobs_held_back": len(colony.later),
        "rbee_jobs_running": totals.jobs_running,
        "rbee_hives": totals.hives_total,
        "rbee_hives_online": totals.hives_online,
        "rbee_tokens_per_second": totals.tokens_per_second,
        "rbee_streams_open": open_streams,
        "rbee_stream_readers": readers,
        "rbee_downloads_running": queen.downloads(),
        "rbee_uptime_seconds": queen.uptime(),
    }
    by_worker: dict[str, dict[tuple[str, ...], float]] = {
        "rbee_worker_slots": {_key(w): w.slots_total for w in fleet.workers.values()},
        "rbee_worker_slots_busy": {_key(w): len(w.jobs) for w in fleet.workers.values()},
        "rbee_worker_tokens_per_second": {
            _key(w): w.decode_rate for w in fleet.workers.values() if w.decode_rate is not None
        },
        "rbee_worker_memory_bytes": {_key(w): w.memory_bytes for w in fleet.workers.values()},
        "rbee_worker_resident_bytes": {_key(w): w.rss_bytes for w in fleet.workers.values()},
    }
    return {
        "rbee_queue_depth": {(str(p),): depth for p, depth in colony.queue.depth().items()},
        "rbee_workers": {(str(state),): states[state] for state in WorkerState},
        "rbee_device_memory_bytes": {(h.name, d.name): d.memory_total for h, d in devices},
        "rbee_device_memory_free_bytes": {(h.name, d.name): d.memory_free for h, d in devices},
        **by_worker,
        **{name: {(): value} for name, value in single.items()},
    }


def _key(worker: Worker) -> tuple[str, str, str]:
    return (worker.id, worker.hive, worker.spec.model_id)


def _streams(queen: Observed) -> tuple[int, int]:
    """Open ones, and who reads them: someone who reads several at once is one."""
    found = 0
    readers: set[object] = set()
    for job_id in queen.colony.jobs:
        stream = queen.streams.live(job_id)
        if stream is not None:
            found += 1
            readers.update(stream.wakers)
    return found, len(readers)
