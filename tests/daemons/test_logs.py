"""The lines of logs, and one request found again in the logs and counts of all it went through."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics import parser as open_parser

from rbee.daemons.logs import JsonFormatter, TextFormatter, correlation
from rbee.daemons.queen.gauges import GAUGES
from tests.support.home import Home, wait_for
from tests.support.scraped import samples

SECRET = "periwinkle"


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
