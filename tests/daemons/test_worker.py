"""The worker daemon with the echo backend: its start, its routes, its ends."""

from __future__ import annotations

import signal

import httpx
import pytest
from worker_process import TOKEN, WorkerProcess, decoded

# -- starting ----------------------------------------------------------------------------------


def test_it_reports_ready_before_it_loads_and_then_idle(hive, start):
    worker = start(model_id="echo-slow", wait="")
    hive.wait(lambda beats: len(beats) > 0)
    path, ready, authorization = hive.posts[0]
    assert path == "/v1/workers/ready"
    assert authorization == f"Bearer {TOKEN}"
    assert ready == {
        "worker_id": "w-1",
        "url": worker.url,
        "model": "echo-slow",
        "backend": "echo",
        "device": "cpu",
        "pid": worker.process.pid,
        "protocol": 1,
    }
    assert hive.beats[0]["state"] == "loading"
    assert hive.beats[0]["slots_total"] == 0
    idle = hive.wait_for_state("idle")
    assert (idle["slots_total"], idle["slots_busy"], idle["ctx"]) == (2, 0, 4096)
    fractions = [beat["progress"] for beat in hive.beats if beat["state"] == "loading"]
    assert fractions == sorted(fractions)
    assert 3 <= len(fractions) <= 30


def test_while_loading_it_is_not_ready_and_says_where_to_look(start):
    worker = start(model_id="echo-slow", wait="loading")
    reply = worker.http.get("/v1/ready")
    progress_url = f"{worker.url}/v1/loading/progress"
    assert reply.status_code == 503
    assert reply.json() == {"ready": False, "state": "loading", "progress_url": progress_url}
    reply = worker.execute("hello")
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    error = reply.json()["error"]
    assert error["code"] == "WORKER_NOT_READY"
    assert error["details"]["progress_url"] == progress_url
    with worker.http.stream("GET", progress_url) as stream:
        events = list(decoded(stream))
    assert events[-1] == {"stage": "ready", "progress": 1.0}
    assert "reading words" in [event["stage"] for event in events]
    assert worker.http.get("/v1/ready").json() == {"ready": True, "state": "idle"}


def test_a_failed_load_is_told_and_ends_the_process(hive, start):
    worker = start(model_id="echo-broken", wait="failed")
    beat = hive.wait_for_state("failed")
    assert beat["error"]["code"] == "MODEL_LOAD_FAILED"
    assert beat["error"]["details"]["suggested_action"]
    assert worker.exit_code() == 1
    assert "echo-broken never loads" in worker.log


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"backend": "abacus"}, "BACKEND_UNAVAILABLE"),
        ({"device": "cuda:0"}, "BACKEND_UNAVAILABLE"),
        ({"slots": 9}, "MODEL_LOAD_FAILED"),
        ({"format": "gguf", "model_path": "/nowhere/x.gguf"}, "MODEL_LOAD_FAILED"),
    ],
)
def test_what_cannot_run_here_fails_with_its_reason(hive, start, spec, code):
    worker = start(wait="failed", **spec)
    assert hive.wait_for_state("failed")["error"]["code"] == code
    assert worker.exit_code() == 1


def test_a_header_that_would_kill_the_library_is_found_first(hive, start, tmp_path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 64)
    worker = start(wait="failed", format="gguf", model_path=str(bad), backend="llamacpp", slots=1)
    assert hive.wait_for_state("failed")["error"]["code"] == "MODEL_CORRUPTED"
    assert worker.exit_code() == 1


def test_the_ready_callback_is_made_up_for_when_the_hive_refused_it(hive, start):
    hive.refuse = 2
    worker = start()
    assert hive.posts[0][0] == "/v1/workers/ready"
    assert "does not take" in worker.log


def test_a_hive_that_is_not_there_does_not_stop_the_work(tmp_path):
    with WorkerProcess("http://127.0.0.1:9", tmp_path / "log") as worker:
        state = ""
        while state != "idle":
            state = worker.http.get("/v1/health").json()["state"]
        assert worker.execute("still here").json()["text"] == "still here"


def test_the_token_and_prompts_are_in_no_log(start):
    worker = start()
    assert worker.execute("a very secret prompt").status_code == 200
    assert worker.execute("@fail_after=1 a very secret prompt").status_code == 500
    worker.process.terminate()
    worker.exit_code()
    assert TOKEN not in worker.log
    assert "secret" not in worker.log


# -- routes ------------------------------------------------------------------------------------


def test_health_is_open_and_everything_else_is_not(start):
    worker = start()
    health = httpx.get(f"{worker.url}/v1/health").json()
    assert health | {"idle_seconds": 0, "memory_bytes": 0} == {
        "status": "healthy",
        "model": "echo",
        "backend": "echo",
        "device": "cpu",
        "state": "idle",
        "slots_total": 2,
        "slots_busy": 0,
        "memory_bytes": 0,
        "idle_seconds": 0,
        "capabilities": ["text-gen", "embedding"],
        "protocol": "sse",
        "worker_id": "w-1",
    }
    for method, path in [
        ("GET", "/v1/ready"),
        ("GET", "/v1/loading/progress"),
        ("POST", "/v1/execute"),
        ("POST", "/v1/inference"),
        ("POST", "/v1/cancel"),
        ("DELETE", "/v1/inference/r-1"),
        ("POST", "/v1/admin/shutdown"),
    ]:
        missing = httpx.request(method, worker.url + path)
        wrong = httpx.request(method, worker.url + path, headers={"Authorization": "Bearer no"})
        assert (missing.status_code, wrong.status_code) == (401, 401), path
        assert missing.json()["error"]["code"] == "MISSING_API_KEY"
        assert wrong.json()["error"]["code"] == "INVALID_API_KEY"
    assert worker.http.get("/v1/nothing").json()["error"]["code"] == "NOT_FOUND"


def test_a_stream_has_tokens_with_index_then_totals_then_done(start):
    answer = start().answer("one two three")
    assert [event["token"] for event in answer.events[:-1]] == ["one ", "two ", "three"]
    assert [event["index"] for event in answer.events[:-1]] == [0, 1, 2]
    done = answer.done
    assert (done["done"], done["total_tokens"], done["finish_reason"]) == (True, 3, "stop")
    assert (done["usage"]["prompt_tokens"], done["usage"]["completion_tokens"]) == (3, 3)
    assert answer.ended


def test_one_json_body_without_stream_and_the_alias(start):
    worker = start()
    body = {
        "request_id": "r",
        "messages": [{"role": "user", "content": "a b c d"}],
        "stream": False,
        "max_tokens": 2,
    }
    reply = worker.http.post("/v1/inference", json=body)
    assert reply.headers["x-correlation-id"]
    assert reply.json()["text"] == "a b "
    assert reply.json()["finish_reason"] == "length"
    assert reply.json()["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt": None}, "prompt"),
        ({"messages": [{"role": "user", "content": "both"}]}, "prompt"),
        ({"prompt": None, "messages": []}, "messages"),
        ({"prompt": None, "messages": [{"role": "user", "content": 5}]}, "messages"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"seed": 1 << 40}, "seed"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"request_id": ""}, "request_id"),
    ],
)
def test_a_bad_field_is_named(start, change, field):
    reply = start().http.post("/v1/execute", json={"request_id": "r", "prompt": "hello"} | change)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "VALIDATION_ERROR"
    assert reply.json()["error"]["details"]["field"] == field


def test_a_body_over_the_limit_or_no_json_at_all(start):
    worker = start()
    reply = worker.http.post("/v1/execute", content=b"x" * ((4 << 20) + 1))
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
    reply = worker.http.post("/v1/execute", content=iter([b"x" * (4 << 20), b"y"]))
    assert reply.status_code == 413
    assert worker.http.post("/v1/execute", content=b"{").status_code == 400


# -- ending ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_cancels_and_ends_it(start, number):
    worker = start()
    with worker.stream("@hang_after=1 a b") as events:
        next(events)
        worker.process.send_signal(number)
        rest = list(events)
    assert rest[0]["finish_reason"] == "cancelled"
    assert worker.exit_code() == 0


def test_a_signal_ends_a_load_that_hangs(start):
    worker = start(model_id="echo-stuck", wait="loading")
    worker.process.terminate()
    assert worker.exit_code() == 0


def test_a_graceful_shutdown_lets_running_requests_finish(hive, start):
    worker = start()
    with worker.stream("@delay=100 @repeat=10 word") as events:
        next(events)
        reply = worker.http.post("/v1/admin/shutdown", json={"timeout_seconds": 30})
        assert reply.status_code == 202
        refused = worker.execute("late", "r-2")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "SHUTTING_DOWN")
        rest = list(events)
    assert rest[-2]["finish_reason"] == "stop"
    assert rest[-2]["total_tokens"] == 10
    assert worker.exit_code() == 0
    assert "stopping" in [beat["state"] for beat in hive.beats]


def test_a_graceful_shutdown_has_a_limit(start):
    worker = start()
    with worker.stream("@hang_after=1 a b") as events:
        next(events)
        worker.http.post("/v1/admin/shutdown", json={"timeout_seconds": 0.2})
        assert next(events)["finish_reason"] == "cancelled"
    assert worker.exit_code() == 0


def test_a_shutdown_at_once_overtakes_a_graceful_one(start):
    worker = start()
    with worker.stream("@hang_after=1 a b") as events:
        next(events)
        worker.http.post("/v1/admin/shutdown", json={"timeout_seconds": 600})
        worker.http.post("/v1/admin/shutdown", json={"graceful": False})
        assert next(events)["finish_reason"] == "cancelled"
    assert worker.exit_code() == 0


def test_bad_start_arguments_exit_2(tmp_path):
    import subprocess
    import sys

    command = [sys.executable, "-m", "rbee.daemons.worker.main", "--fd", "99"]
    command += ["--callback-url", "http://127.0.0.1:9"]
    done = subprocess.run([*command, "--spec", "{}"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "worker_id" in done.stderr
