"""What the queen counts, and how it is told to Prometheus.

Owns the counters and histograms (what is read off the colony is in `gauges`), their names, labels
and bounds. Counting is two look-ups and an addition; prometheus-client, the reference for the
formats, is imported at the first scrape. Labels are few: models, error codes and fixed words, and
beyond MAX_SERIES of a metric all is counted as `other`. Never a prompt, client or job id.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from rbee.protocol.jobs import JobState

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from rbee.daemons.queen.gauges import Observed
    from rbee.errors import RbeeError

MAX_SERIES = 1000
OTHER = "other"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""For what people wait for."""
FRACTIONS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""For what the queen herself takes, in seconds too."""
_ENDS = frozenset(str(state) for state in JobState)

Key = tuple[str, ...]


class Counter:
    """`rbee_NAME_total`, by labels."""

    kind = "counter"

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self.name = f"rbee_{name}"
        self.meaning = meaning
        self.labels = labels
        self.cells: dict[Key, float] = {}
        self._key = _picker(labels)
        if not labels:
            self.cells[()] = 0.0

    @property
    def sample(self) -> str:
        """The name that is asked for in queries."""
        return f"{self.name}_total"

    def add(self, amount: float, labels: Mapping[str, str]) -> None:
        """Raises KeyError for a label that is missing, ValueError for a step back."""
        if not amount >= 0.0:
            raise ValueError(f"{self.name} cannot go by {amount}")
        key = self._key(labels)
        try:
            self.cells[key] += amount
        except KeyError:
            key = _room(self.cells, key)
            self.cells[key] = self.cells.get(key, 0.0) + amount

    def metric(self) -> Metric:
        """As it is now."""
        from prometheus_client.metrics_core import CounterMetricFamily

        family = CounterMetricFamily(self.name, self.meaning, labels=self.labels)
        for key, value in self.cells.items():
            family.add_metric(key, value)
        return family


class Histogram:
    """`rbee_NAME` with cumulative buckets, by labels; a value equal to a bound is within it."""

    kind = "histogram"

    def __init__(self, name: str, meaning: str, *labels: str, bounds: tuple[float, ...]) -> None:
        self.name = f"rbee_{name}"
        self.meaning = meaning
        self.labels = labels
        self.bounds = bounds
        self.cells: dict[Key, list[float]] = {}
        """Observations by bucket, those above all bounds, and the sum of all values."""
        self._key = _picker(labels)
        if not labels:
            self.cells[()] = self._empty()

    @property
    def sample(self) -> str:
        """The name that is asked for in queries."""
        return self.name

    def add(self, amount: float, labels: Mapping[str, str]) -> None:
        """One observation. Raises KeyError for a label that is missing, ValueError for NaN."""
        if math.isnan(amount):
            raise ValueError(f"{self.name} cannot observe {amount}")
        key = self._key(labels)
        cell = self.cells.get(key)
        if cell is None:
            cell = self.cells.setdefault(_room(self.cells, key), self._empty())
        cell[bisect_left(self.bounds, amount)] += 1.0
        cell[-1] += amount

    def metric(self) -> Metric:
        """As it is now."""
        from prometheus_client.metrics_core import HistogramMetricFamily

        family = HistogramMetricFamily(self.name, self.meaning, labels=self.labels)
        for key, cell in self.cells.items():
            total, buckets = 0.0, list[tuple[str, float]]()
            for bound, count in zip((*map(str, self.bounds), "+Inf"), cell, strict=False):
                total += count
                buckets.append((bound, total))
            family.add_metric(key, buckets, cell[-1])
        return family

    def _empty(self) -> list[float]:
        return [0.0] * (len(self.bounds) + 2)


def families() -> dict[str, Counter | Histogram]:
    """All that is counted, by the name that the core's Count effects use, empty."""
    return {
        "requests": Counter(
            "requests", "Jobs that ended, by how: a state or an error code.", "operation", "outcome"
        ),
        "errors": Counter("errors", "Jobs that failed and requests that were refused.", "code"),
        "retries": Counter(
            "retries", "Runs that were lost and are made good by another, by why.", "code"
        ),
        "resumes": Counter("resumes", "Answers that went on on another worker.", "model"),
        "preemptions": Counter("preemptions", "Batch runs put back for interactive ones.", "model"),
        "evictions": Counter("evictions", "Idle workers that made room for others.", "model"),
        "worker_failures": Counter(
            "worker_failures", "Workers that crashed, hung or did not load.", "model"
        ),
        "worker_restarts": Counter(
            "worker_restarts", "Pinned workers that were started again after a failure.", "model"
        ),
        "tokens": Counter(
            "tokens", "Tokens of prompts, of those from caches, and of answers.", "kind", "model"
        ),
        "download_bytes": Counter("download_bytes", "Bytes of models that hives have fetched."),
        "downloads_failed": Counter(
            "downloads_failed", "Models that could not be fetched, by why.", "code"
        ),
        "wasted_tokens": Counter(
            "wasted_tokens", "Tokens that were made after nobody wanted them."
        ),
        "wait_seconds": Histogram(
            "wait_seconds", "From acceptance to a worker.", "priority", bounds=SECONDS
        ),
        "first_token_seconds": Histogram(
            "first_token_seconds", "From acceptance to the first token.", bounds=SECONDS
        ),
        "overhead_seconds": Histogram(
            "overhead_seconds",
            "The queen's own time for a request: admission and hand-over, without the wait.",
            bounds=FRACTIONS,
        ),
    }


class Metrics:
    """All metrics of one queen, in a registry of their own. For the event loop's thread only."""

    def __init__(self) -> None:
        self._families = families()
        self._observed: Observed | None = None
        self._registry: CollectorRegistry | None = None

    def bind(self, queen: Observed) -> None:
        """Read the gauges off this queen from now on."""
        self._observed = queen

    def count(self, name: str, amount: float, labels: Mapping[str, str]) -> None:
        """Add to a counter, or observe a value. Raises KeyError for a name that is not known."""
        self._families[name].add(amount, labels)
        if name == "requests" and labels["outcome"] not in _ENDS:
            self._families["errors"].add(amount, {"code": labels["outcome"]})

    def refused(self, error: RbeeError) -> None:
        """A request was answered with an error and never became a job."""
        self._families["errors"].add(1.0, {"code": error.code})

    def collect(self) -> Iterator[Metric]:
        """For the registry: everything but what the process itself tells."""
        for family in self._families.values():
            yield family.metric()
        if self._observed is not None:
            from rbee.daemons.queen.gauges import read

            yield from read(self._observed)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The body and its content type: Prometheus text, or OpenMetrics when that is accepted."""
        from prometheus_client.exposition import choose_encoder

        if self._registry is None:
            self._registry = self._registered()
        try:
            encoder, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is none
            encoder, content_type = choose_encoder("")
        return encoder(self._registry), content_type

    def _registered(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry
        from prometheus_client.process_collector import ProcessCollector

        registry = CollectorRegistry()
        registry.register(self)
        ProcessCollector(registry=registry)
        return registry


def handler(metrics: Metrics) -> Callable[[Request], Any]:
    """The route GET /metrics."""

    async def answer(request: Request) -> Response:
        """GET /metrics"""
        # The import takes 20 to 50 ms; no stream shall wait for it.
        await anyio.to_thread.run_sync(_import)
        body, content_type = metrics.render(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    return answer


def _import() -> None:
    import prometheus_client  # noqa: F401  # pyright: ignore[reportUnusedImport]


def _picker(labels: tuple[str, ...]) -> Callable[[Mapping[str, str]], Key]:
    """The label values in order, as a tuple whatever their number."""
    if not labels:
        return lambda _: ()
    if len(labels) == 1:
        only = labels[0]
        return lambda given: (given[only],)
    return itemgetter(*labels)


def _room(cells: Mapping[Key, object], key: Key) -> Key:
    """The key, or `other` for each label when there are too many series already."""
    return key if len(cells) < MAX_SERIES else (OTHER,) * len(key)
