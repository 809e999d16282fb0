"""Metrics against the core's names, the formats' own parsers and the page about them; a request
found again in the logs of every daemon that had to do with it."""

from __future__ import annotations

import ast
import json
import logging
import math
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from prometheus_client import parser as text_parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as open_parser

from rbee.core.colony import Colony
from rbee.daemons.logs import JsonFormatter, TextFormatter, correlation
from rbee.daemons.queen.gauges import GAUGES
from rbee.daemons.queen.metrics import MAX_SERIES, Metrics, families
from rbee.daemons.queen.store import Store
from rbee.daemons.queen.streams import Streams, read_all
from rbee.errors import ModelNotFound
from rbee.protocol.jobs import EventType
from rbee.protocol.operations import Infer, Priority
from rbee.protocol.workers import WorkerState
from tests.core.builders import World, done, started
from tests.support.home import Home, wait_for

ROOT = Path(__file__).parents[2]
SECRET = "periwinkle"


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (s.name, frozenset(s.labels.items())): s.value
        for family in text_parser.text_string_to_metric_families(text)
        for s in family.samples
    }


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


# -- lines -------------------------------------------------------------------------------------


def record(message: str, **extra: object) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "levelname": "INFO", "name": "rbee.x"} | extra)


def test_fields_come_out_as_keys_or_behind_the_text():
    one = record("accepted", job="j-1", ms=12, why=None)
    assert TextFormatter("%(levelname)s %(message)s").format(one) == (
        "INFO accepted job=j-1 ms=12 why=None"
    )
    line = json.loads(JsonFormatter().format(one))
    assert (line["message"], line["level"], line["logger"]) == ("accepted", "info", "rbee.x")
    assert (line["job"], line["ms"], line["why"]) == ("j-1", 12, None)


def test_a_field_cannot_forge_a_line_or_take_a_keys_place():
    one = record("said", level="error", path="/a\nINFO forged x=1", odd="\udcff", empty="")
    text = TextFormatter("%(levelname)s %(message)s").format(one)
    assert text == ('INFO said level=error path="/a\\nINFO forged x=1" odd=\\udcff empty=""')
    line = json.loads(JsonFormatter().format(one))
    assert (line["level"], line["path"]) == ("info", "/a\nINFO forged x=1")


def test_a_message_that_repeats_what_a_machine_said_is_one_line_and_moves_no_cursor():
    one = record("link lost: \x1b[2J\x9b2J\r\nINFO forged\u2028 naïve\tword")
    assert TextFormatter("%(message)s").format(one) == (
        "link lost: \\x1b[2J\\x9b2J\\r\\nINFO forged\\u2028 naïve\tword"
    )


def test_a_defect_is_told_with_its_traceback_and_the_request_it_was_met_in():
    token = correlation.set("abc-123")
    try:
        raise LookupError("here")
    except LookupError:
        one = record("failed", exc_info=sys.exc_info())
        text = TextFormatter("%(message)s").format(one)
        line = json.loads(JsonFormatter().format(one))
    finally:
        correlation.reset(token)
    assert text.startswith("failed correlation_id=abc-123\nTraceback")
    assert line["correlation_id"] == "abc-123"
    assert "LookupError: here" in line["traceback"]


# -- a real queen ------------------------------------------------------------------------------


def chat(user: Home, words: str, *, model: str = "echo", correlation: str = "") -> httpx.Response:
    headers = {"X-Correlation-Id": correlation} if correlation else {}
    body = {"model": model, "messages": [{"role": "user", "content": words}]}
    url = f"{user.url}/v1/chat/completions"
    return httpx.post(url, json=body, headers=headers, timeout=60.0, trust_env=False)


def scraped(user: Home, accept: str = "") -> httpx.Response:
    return httpx.get(f"{user.url}/metrics", headers={"Accept": accept}, trust_env=False)


def logs_of(user: Home) -> dict[str, str]:
    """File name without its ending → text."""
    return {path.stem: path.read_text("utf-8") for path in (user.path).rglob("*.log")}


@pytest.mark.parametrize("form", ["text", "json"])
def test_one_request_is_found_in_the_logs_and_counted(home: Home, form: str):
    home.env["RBEE_LOG_FORMAT"] = form
    assert home.rbee("queen", "start").returncode == 0
    reply = chat(home, f"one {SECRET} three", correlation="abc-123")
    assert reply.headers["X-Correlation-Id"] == "abc-123"
    job, worker = reply.headers["X-Rbee-Job"], reply.headers["X-Rbee-Worker"]
    assert chat(home, SECRET, model=SECRET[:5], correlation="refused-1").status_code == 404
    assert chat(home, f"@fail_after=1 {SECRET} b", correlation="failed-1").status_code == 500
    wait_for(lambda: "failed-1" in logs_of(home)[worker], what="the worker's log")

    logs = logs_of(home)
    accepted = fields(logs["queen"], form, "accepted", correlation_id="abc-123")
    assert accepted["job"] == job
    assert accepted["operation"] == "infer"
    begins = fields(logs[worker], form, "request begins", correlation_id="abc-123")
    ended = fields(logs[worker], form, "request ended", correlation_id="abc-123")
    assert begins["request_id"] == ended["request_id"] == f"{job}.1"
    assert str(ended["tokens"]) == "3"
    assert ended["finish_reason"] == "stop"
    assert float(ended["ms"]) >= 0
    failed = fields(logs[worker], form, "request ended", correlation_id="failed-1")
    assert (failed["error"], str(failed["tokens"])) == ("INTERNAL_ERROR", "1")
    assert not [name for name, text in logs.items() if SECRET in text]

    reply = scraped(home)
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(reply.text)

    def seen(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    assert seen("rbee_requests_total", operation="infer", outcome="completed") == 1
    assert seen("rbee_errors_total", code="MODEL_NOT_FOUND") == 1
    assert seen("rbee_errors_total", code="INTERNAL_ERROR") == 1
    assert seen("rbee_tokens_total", kind="answer", model="echo") == 4
    assert seen("rbee_wait_seconds_count", priority="interactive") == 2
    assert seen("rbee_first_token_seconds_count") == 2
    assert seen("rbee_overhead_seconds_count") == 2
    assert seen("rbee_overhead_seconds_sum") > 0
    assert seen("rbee_workers", state="idle") == 1
    assert seen("rbee_worker_slots_busy", worker=worker, hive="home", model="echo") == 0
    assert seen("rbee_hives_online") == 1
    assert seen("process_resident_memory_bytes") > 1 << 20
    names = {name for name, _ in found}
    assert {g for g in GAUGES if g != "rbee_worker_tokens_per_second"} <= names
    assert not [key for key in found if job in str(key) or SECRET in str(key)]
    opened = scraped(home, "application/openmetrics-text; version=1.0.0")
    assert list(open_parser.text_string_to_metric_families(opened.text))


def fields(log: str, form: str, message: str, *, correlation_id: str) -> dict[str, Any]:
    """Those of the one line with this message and id."""
    found: list[dict[str, Any]] = []
    for line in log.splitlines():
        if form == "json":
            one = json.loads(line)
            if message == one["message"]:
                found.append(one)
        elif f" {message} " in line:
            found.append(dict(re.findall(r"(\w+)=(\S+)", line)))
    (mine,) = [one for one in found if one.get("correlation_id") == correlation_id]
    return mine


def test_what_a_hive_of_its_own_is_asked_is_in_both_logs(home: Home):
    home.env |= {"RBEE_LOG_FORMAT": "json", "RBEE_QUEEN_LOCAL_HIVE": "false"}
    assert home.rbee("queen", "start").returncode == 0
    assert home.state is not None
    hive_log = home.path / "hive-of-its-own.log"
    command = [
        str(Path(home.command()[0]).with_name("rbee-hive")),
        "--name",
        "apart",
        "--port",
        "0",
    ]
    with hive_log.open("w", encoding="utf-8") as out:
        hive = subprocess.Popen(
            [*command, "--queen-url", home.url],
            env=home.env | {"RBEE_INTERNAL_TOKEN": home.state["token"]},
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=home.path,
        )  # fmt: skip
    try:
        wait_for(lambda: [h for h in home.get("/v1/hives")["hives"] if h["online"]])
        assert chat(home, SECRET, correlation="abc-123").status_code == 200
        queen = (home.path / "state" / "logs" / "queen.log").read_text("utf-8")
        asked = next(
            one for one in map(json.loads, queen.splitlines()) if "asked to spawn" in one["message"]
        )
        same = fields(
            hive_log.read_text("utf-8"),
            "json",
            "spawn asked",
            correlation_id=asked["correlation_id"],
        )
        assert same["worker"] == asked["worker"]
        assert not [name for name, text in logs_of(home).items() if SECRET in text]
    finally:
        assert home.rbee("queen", "stop").returncode == 0
        hive.wait(30)
