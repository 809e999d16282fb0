"""Metrics against the core's names, the formats' own parsers and the page about them."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from prometheus_client import parser as text_parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as open_parser

from rbee.core.colony import Colony
from rbee.daemons.queen.gauges import GAUGES
from rbee.daemons.queen.metrics import MAX_SERIES, Metrics, families
from rbee.daemons.queen.store import Store
from rbee.daemons.queen.streams import Streams, read_all
from rbee.errors import ModelNotFound
from rbee.protocol.jobs import EventType
from rbee.protocol.operations import Infer, Priority
from rbee.protocol.workers import WorkerState
from tests.core.builders import World, done, started
from tests.support.scraped import samples

ROOT = Path(__file__).parents[2]


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    body, _ = metrics.render()
    return samples(body.decode()).get((name, frozenset(labels.items())))


# -- names -------------------------------------------------------------------------------------


def counted_in_core() -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name, labels) of every metric that the core counts."""
    for path in sorted((ROOT / "rbee" / "core").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            first, how = node.args[0], node.func
            if not isinstance(first, ast.Constant) or not isinstance(first.value, str):
                continue
            if isinstance(how, ast.Attribute) and how.attr == "count":
                yield first.value, tuple(k.arg or "" for k in node.keywords)
            elif isinstance(how, ast.Name) and how.id == "Count":
                labels = node.args[2] if len(node.args) > 2 else ast.Dict([], [])
                assert isinstance(labels, ast.Dict)
                yield first.value, tuple(ast.literal_eval(key) for key in labels.keys if key)


def test_all_that_the_core_counts_is_known_with_its_labels():
    found = list(counted_in_core())
    assert {"requests", "wait_seconds", "retries", "tokens"} <= {name for name, _ in found}
    metrics = Metrics()
    for name, labels in found:
        assert set(labels) == set(families()[name].labels), name
        metrics.count(name, 1.0, dict.fromkeys(labels, "x"))


def test_what_is_not_known_is_a_defect():
    metrics = Metrics()
    with pytest.raises(KeyError, match="nonsense"):
        metrics.count("nonsense", 1.0, {})
    with pytest.raises(KeyError, match="model"):
        metrics.count("evictions", 1.0, {})
    for wrong in (-1.0, math.nan):
        with pytest.raises(ValueError, match="wasted"):
            metrics.count("wasted_tokens", wrong, {})
    with pytest.raises(ValueError, match="first_token"):
        metrics.count("first_token_seconds", math.nan, {})
    assert value(metrics, "rbee_wasted_tokens_total") == 0.0


# -- counting ----------------------------------------------------------------------------------


def test_counters_add_up_by_their_labels_whatever_the_order():
    metrics = Metrics()
    metrics.count("tokens", 3, {"kind": "answer", "model": "a"})
    metrics.count("tokens", 4, {"model": "a", "kind": "answer"})
    metrics.count("tokens", 5, {"kind": "prompt", "model": "a"})
    assert value(metrics, "rbee_tokens_total", kind="answer", model="a") == 7
    assert value(metrics, "rbee_tokens_total", kind="prompt", model="a") == 5


def test_a_value_at_a_bound_is_within_it_and_buckets_are_cumulative():
    metrics = Metrics()
    for seconds in (0.0, 0.05, 0.051, 300.0, 4000.0):
        metrics.count("wait_seconds", seconds, {"priority": "batch"})

    def bucket(le: str) -> float | None:
        return value(metrics, "rbee_wait_seconds_bucket", priority="batch", le=le)

    assert [bucket(le) for le in ("0.025", "0.05", "0.1", "300.0", "+Inf")] == [1, 2, 3, 4, 5]
    assert value(metrics, "rbee_wait_seconds_count", priority="batch") == 5
    assert value(metrics, "rbee_wait_seconds_sum", priority="batch") == pytest.approx(4300.101)


def test_errors_are_failed_jobs_and_refused_requests():
    metrics = Metrics()
    for outcome in ("completed", "cancelled", "WORKER_CRASHED", "WORKER_CRASHED"):
        metrics.count("requests", 1.0, {"operation": "infer", "outcome": outcome})
    metrics.refused(ModelNotFound("no such model"))
    assert value(metrics, "rbee_errors_total", code="WORKER_CRASHED") == 2
    assert value(metrics, "rbee_errors_total", code="MODEL_NOT_FOUND") == 1
    assert value(metrics, "rbee_errors_total", code="completed") is None
    assert value(metrics, "rbee_requests_total", operation="infer", outcome="cancelled") == 1


@pytest.mark.parametrize("name", ["evictions", "wait_seconds"])
def test_the_number_of_series_is_bounded_and_nothing_is_lost(name: str):
    metrics, family = Metrics(), families()[name]
    (label,) = family.labels
    for number in range(MAX_SERIES + 50):
        metrics.count(name, 1.0, {label: f"m{number}"})
        metrics.count(name, 1.0, {label: "m0"})
    ends = {"evictions": "_total", "wait_seconds": "_count"}[name]
    rows = {k: v for k, v in samples(metrics.render()[0].decode()).items() if k[0].endswith(ends)}
    rows = {k: v for k, v in rows.items() if k[0] == f"rbee_{name}{ends}"}
    assert len(rows) == MAX_SERIES + 1
    assert rows[f"rbee_{name}{ends}", frozenset({(label, "other")})] == 50
    assert sum(rows.values()) == 2 * (MAX_SERIES + 50)


# -- formats -----------------------------------------------------------------------------------


def test_both_formats_are_read_by_their_own_parsers():
    metrics = Metrics()
    for name, labels in counted_in_core():
        metrics.count(name, 2.0, dict.fromkeys(labels, 'a "quoted\\ \n name'))
    text, kind = metrics.render("text/plain;version=0.0.4")
    assert kind.startswith("text/plain; version=0.0.4")
    opened, open_kind = metrics.render(
        "application/openmetrics-text; version=1.0.0,text/plain;q=0.5"
    )
    assert open_kind.startswith("application/openmetrics-text; version=1.0.0")
    assert opened.endswith(b"# EOF\n")
    plain = list(text_parser.text_string_to_metric_families(text.decode()))
    strict = list(open_parser.text_string_to_metric_families(opened.decode()))

    def shape(found: list[Metric]) -> dict[str, str]:
        return {m.name: m.type for m in found if m.name.startswith("rbee_")}

    assert shape(plain) == shape(strict) == {f.name: f.kind for f in families().values()}
    key = ("rbee_evictions_total", frozenset({("model", 'a "quoted\\ \n name')}))
    assert samples(text.decode())[key] == 4.0  # it is counted in two places


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/plain;version=abc", "application/openmetrics-text;version=x", ";;,"]
)
def test_any_accept_header_has_an_answer(accept: str):
    body, kind = Metrics().render(accept)
    assert kind.startswith(("text/plain", "application/openmetrics-text"))
    assert b"rbee_wasted_tokens_total 0.0" in body


def test_the_page_tells_every_metric():
    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    written = {
        (name, kind, tuple(re.findall(r"`(\w+)`", labels)), meaning)
        for name, kind, labels, meaning in re.findall(
            r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]+) \|$", page, re.M
        )
    }
    counted = {(f.sample, f.kind, f.labels, f.meaning) for f in families().values()}
    read = {(name, "gauge", labels, meaning) for name, (meaning, labels) in GAUGES.items()}
    build = ("rbee_build_info", "info", ("version", "python"), "What runs here.")
    assert written == counted | read | {build}


# -- gauges ------------------------------------------------------------------------------------


@dataclass
class Looked:
    colony: Colony
    streams: Streams

    def downloads(self) -> int:
        return 2

    def uptime(self) -> float:
        return 12.5


async def follow(reader: AsyncIterator[object]) -> None:
    async for _ in reader:
        pass


@pytest.mark.anyio
async def test_gauges_tell_the_colony_as_it_is_now(tmp_path: Path):
    world, store = World(), Store.open(tmp_path / "jobs.db")
    metrics = Metrics()
    streams = Streams(store)
    metrics.bind(Looked(world.colony, streams))
    try:
        world.submit("j-1")
        world.bring_up("w-01")
        world.tell(started("j-1"))
        world.submit("j-2")
        world.submit("j-3", Infer(model="tiny", prompt="x", priority=Priority.BATCH))
        for job_id in ("j-1", "j-2", "j-3"):
            streams.create(job_id).append(EventType.STATUS, b"{}")
        worker = {"worker": "w-01", "hive": "home", "model": "tiny"}
        assert value(metrics, "rbee_queue_depth", priority="interactive") == 1
        assert value(metrics, "rbee_queue_depth", priority="batch") == 1
        assert value(metrics, "rbee_jobs_running") == 1
        assert value(metrics, "rbee_workers", state="busy") == 1
        assert value(metrics, "rbee_workers", state="loading") == 0
        assert value(metrics, "rbee_worker_slots", **worker) == 1
        assert value(metrics, "rbee_worker_slots_busy", **worker) == 1
        assert value(metrics, "rbee_worker_tokens_per_second", **worker) is None
        assert (
            value(metrics, "rbee_device_memory_free_bytes", hive="home", device="cpu") == 16 << 30
        )
        assert value(metrics, "rbee_hives_online") == 1
        assert value(metrics, "rbee_streams_open") == 3
        assert value(metrics, "rbee_stream_readers") == 0
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(follow, streams.create("j-1").read())
            tasks.start_soon(follow, read_all([streams.create("j-1"), streams.create("j-2")]))
            await anyio.wait_all_tasks_blocked()
            assert value(metrics, "rbee_stream_readers") == 3
            tasks.cancel_scope.cancel()
        assert value(metrics, "rbee_stream_readers") == 0
        assert value(metrics, "rbee_uptime_seconds") == 12.5
        assert value(metrics, "rbee_downloads_running") == 2
        world.beat("w-01", WorkerState.BUSY, memory_bytes=4096)
        world.tell(done("j-1"), after=1.0)
        assert value(metrics, "rbee_worker_memory_bytes", **worker) == 4096
        assert value(metrics, "rbee_worker_tokens_per_second", **worker) == 20.0
        assert value(metrics, "rbee_streams_open") == 2
    finally:
        store.close()
