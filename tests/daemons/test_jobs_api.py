"""The routes of jobs on a real queen: who asks, who waits and why, retries, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.support.home import Home, wait_for

FOREVER = "@hang_after=0 x"
DIES = "@exit_after=1 a b c"


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A queen whose workers have one slot, and who tries a job once."""
    home = Home(
        tmp_path_factory.mktemp("jobs"),
        RBEE_WORKER_SLOTS="1", RBEE_JOB_ATTEMPTS="1", RBEE_QUEEN_QUEUE_CAPACITY="3",
    )  # fmt: skip
    assert home.rbee("queen", "start").returncode == 0
    yield home
    home.close()


@pytest.fixture
def queen(user: Home) -> Iterator[httpx.Client]:
    """HTTP to it; what a test leaves running is cancelled."""
    with httpx.Client(base_url=user.url, headers=user.owner, timeout=30, trust_env=False) as http:
        yield http
        for job in http.get("/v1/jobs?limit=1000").json()["jobs"]:
            if job["finished_at"] is None:
                http.delete(f"/v1/jobs/{job['job_id']}")
        wait_for(lambda: not any(w["slots_busy"] for w in user.workers()), what="free slots")


Submit = Callable[..., str]


@pytest.fixture
def submit(queen: httpx.Client) -> Submit:
    def one(prompt: str, *, client: str | None = None, **fields: Any) -> str:
        headers = {"X-Rbee-Client": client} if client is not None else {}
        body = {"operation": "infer", "model": "echo", "prompt": prompt, **fields}
        reply = queen.post("/v1/jobs", json=body, headers=headers)
        assert reply.status_code == 202, reply.text
        return reply.json()["job_id"]

    return one


def ended(queen: httpx.Client, job_id: str) -> dict[str, Any]:
    """The job when its stream has come to its end."""
    assert "[DONE]" in queen.get(f"/v1/jobs/{job_id}/stream").text
    return queen.get(f"/v1/jobs/{job_id}").json()


def running(queen: httpx.Client, job_id: str) -> None:
    wait_for(
        lambda: queen.get(f"/v1/jobs/{job_id}").json()["state"] in ("dispatched", "running"),
        what="it has its slot",
    )


def test_a_job_knows_who_asked_and_under_which_correlation(
    queen: httpx.Client, submit: Submit
) -> None:
    assert ended(queen, submit("x"))["client"] == "api"
    assert ended(queen, submit("x", client="anna.b@c_d-9"))["client"] == "anna.b@c_d-9"
    body = {"operation": "infer", "model": "echo", "prompt": "x"}
    reply = queen.post("/v1/jobs", json=body, headers={"X-Correlation-Id": "story-7"})
    assert reply.headers["X-Correlation-Id"] == "story-7"
    assert ended(queen, reply.json()["job_id"])["correlation_id"] == "story-7"


@pytest.mark.parametrize("name", ["", "an na", "a" * 65, "a/b", "a\tb", "b\u00e4"])
def test_a_client_name_that_is_none_is_refused_by_its_header(
    queen: httpx.Client, name: str
) -> None:
    body = {"operation": "infer", "model": "echo", "prompt": "x"}
    reply = queen.post("/v1/jobs", json=body, headers={"X-Rbee-Client": name.encode()})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "VALIDATION_ERROR")
    assert reply.json()["error"]["details"]["field"] == "X-Rbee-Client"


def test_the_queue_says_who_waits_where_and_for_how_long(
    queen: httpx.Client, submit: Submit
) -> None:
    running(queen, submit(FOREVER, client="anna"))
    late = submit("x", client="bert", priority="batch")
    soon = submit("x", client="anna")
    body = queen.get("/v1/queue").json()
    assert body["depth"] == {"interactive": 1, "batch": 1}
    assert body["head_wait_seconds"] >= 0
    assert set(body["clients"]) >= {"anna", "bert"}
    assert [(j["job_id"], j["queue_position"]) for j in body["jobs"]] == [(soon, 1), (late, 2)]
    for job in body["jobs"]:
        assert job["eta_ms"] >= 0
        assert "busy" in job["waiting_for"]
    one = queen.get(f"/v1/jobs/{late}").json()
    assert (one["queue_position"], one["priority"], one["client"]) == (2, "batch", "bert")
    listed = queen.get("/v1/jobs?state=queued").json()["jobs"]
    assert [(j["job_id"], j["queue_position"]) for j in listed] == [(soon, 1), (late, 2)]


def test_a_queue_nobody_waits_in(queen: httpx.Client) -> None:
    body = queen.get("/v1/queue").json()
    assert body["depth"] == {"interactive": 0, "batch": 0}
    assert (body["head_wait_seconds"], body["jobs"]) == (0, [])


def test_a_reader_who_waits_is_told_the_place_and_a_bit_of_why(
    queen: httpx.Client, submit: Submit
) -> None:
    running(queen, submit(FOREVER))
    waits = submit("x")
    with queen.stream("GET", f"/v1/jobs/{waits}/stream") as reply:
        comment = next(line for line in reply.iter_lines() if line.startswith(": "))
    assert comment.startswith(": keepalive position=1 eta_ms=")
    assert "busy" in comment


def test_a_reader_of_a_silent_worker_is_told_who_has_the_job(
    queen: httpx.Client, submit: Submit, user: Home
) -> None:
    job_id = submit(FOREVER)
    running(queen, job_id)
    with queen.stream("GET", f"/v1/jobs/{job_id}/stream") as reply:
        comment = next(line for line in reply.iter_lines() if line.startswith(": "))
    assert comment.startswith(f": keepalive {user.workers()[0]['worker_id']} ")


def test_a_stream_can_be_read_as_far_as_it_goes(queen: httpx.Client, submit: Submit) -> None:
    done = submit("one two")
    ended(queen, done)
    whole = queen.get(f"/v1/jobs/{done}/stream").text
    assert queen.get(f"/v1/jobs/{done}/stream?follow=false").text == whole
    rest = queen.get(f"/v1/jobs/{done}/stream?follow=false&after=3").text
    assert rest.startswith("id: 4\n")
    assert whole.endswith(rest)
    running(queen, submit(FOREVER))
    waits = submit("x")
    present = queen.get(f"/v1/jobs/{waits}/stream?follow=false").text
    assert present.startswith("id: 1\nevent: queued\n")
    assert "[DONE]" not in present
    wrong = queen.get(f"/v1/jobs/{waits}/stream?follow=perhaps")
    assert (wrong.status_code, wrong.json()["error"]["details"]["field"]) == (400, "follow")


def test_what_failed_is_asked_again_as_a_new_job_for_the_same_client(
    queen: httpx.Client, submit: Submit
) -> None:
    first = submit("@fail_after=1 a b", client="anna", priority="batch", max_tokens=7)
    assert ended(queen, first)["state"] == "failed"
    reply = queen.post(f"/v1/jobs/{first}/retry", headers={"X-Correlation-Id": "again-1"})
    assert reply.status_code == 202
    second = reply.json()["job_id"]
    assert second != first
    assert reply.headers["Location"] == f"/v1/jobs/{second}"
    assert reply.json()["stream_url"] == f"/v1/jobs/{second}/stream"
    info = ended(queen, second)
    assert (info["retry_of"], info["client"], info["priority"]) == (first, "anna", "batch")
    assert (info["correlation_id"], info["error_code"]) == ("again-1", "INTERNAL_ERROR")
    assert queen.get(f"/v1/jobs/{first}").json()["state"] == "failed"


def test_what_another_dialect_asked_is_asked_again_with_all_it_had(queen: httpx.Client) -> None:
    options = {"stop": [f"stop {at}" for at in range(9)]}
    body = {"model": "echo", "prompt": "@fail_after=1 a b", "stream": False, "options": options}
    first = queen.post("/api/generate", json=body).headers["X-Rbee-Job"]
    assert ended(queen, first)["state"] == "failed"
    again = queen.post(f"/v1/jobs/{first}/retry")
    assert again.status_code == 202, again.text
    assert ended(queen, again.json()["job_id"])["error_code"] == "INTERNAL_ERROR"


def test_what_was_cancelled_is_asked_again(queen: httpx.Client, submit: Submit) -> None:
    running(queen, submit(FOREVER))
    first = submit("hello")
    queen.delete(f"/v1/jobs/{first}")
    assert ended(queen, first)["state"] == "cancelled"
    again = queen.post(f"/v1/jobs/{first}/retry")
    assert (again.status_code, again.json()["queue_position"]) == (202, 1)


def test_what_is_not_to_be_asked_again_says_so(queen: httpx.Client, submit: Submit) -> None:
    done = submit("x")
    ended(queen, done)
    reply = queen.post(f"/v1/jobs/{done}/retry")
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "JOB_FINISHED")
    live = submit(FOREVER)
    running(queen, live)
    waits = submit("x")
    for job_id in (live, waits):
        reply = queen.post(f"/v1/jobs/{job_id}/retry")
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "CONFLICT")
        assert job_id in reply.json()["error"]["details"]["suggested_action"]
    assert queen.post("/v1/jobs/j-unknown1/retry").status_code == 404
    assert len(queen.get("/v1/queue").json()["jobs"]) == 1


def test_what_is_kept_no_longer_cannot_be_asked_again(home: Home) -> None:
    home.env["RBEE_JOB_RETENTION"] = "0"
    assert home.rbee("queen", "start").returncode == 0
    body = {"operation": "infer", "model": "echo", "prompt": "@fail_after=0 x"}
    job_id = home.post("/v1/jobs", body).json()["job_id"]

    def gone() -> bool:
        return httpx.get(f"{home.url}/v1/jobs/{job_id}", trust_env=False).status_code == 404

    wait_for(gone, what="nothing of it is kept")
    assert home.post(f"/v1/jobs/{job_id}/retry", None).status_code == 404
    assert home.get(f"/v1/jobs/{job_id}/decision")["error"]["code"] == "NOT_FOUND"


def test_jobs_that_were_given_up_are_listed_and_can_be_tried_again(
    queen: httpx.Client, submit: Submit
) -> None:
    failed = submit("@fail_after=0 x")
    assert ended(queen, failed)["dead"] is False
    given_up = submit(DIES)
    info = ended(queen, given_up)
    assert (info["state"], info["dead"], info["attempts"]) == ("failed", True, 1)
    dead = [j["job_id"] for j in queen.get("/v1/jobs?dead=true&limit=1000").json()["jobs"]]
    assert given_up in dead
    assert failed not in dead
    others = queen.get("/v1/jobs?dead=false&state=failed&limit=1000").json()["jobs"]
    assert failed in [j["job_id"] for j in others]
    assert not any(j["dead"] for j in others)
    assert queen.get("/v1/jobs?dead=true&state=completed").json() == {"jobs": []}
    assert queen.post(f"/v1/jobs/{given_up}/retry").status_code == 202
    wrong = queen.get("/v1/jobs?dead=maybe")
    assert (wrong.status_code, wrong.json()["error"]["details"]["field"]) == (400, "dead")


def test_decisions_tell_the_options_and_what_each_would_cost(
    queen: httpx.Client, submit: Submit
) -> None:
    job_id = submit("one two three")
    ended(queen, job_id)
    why = queen.get(f"/v1/jobs/{job_id}/decision").json()
    assert (why["job_id"], why["state"]) == (job_id, "completed")
    last = why["decisions"][-1]
    assert (last["verdict"], last["model"], last["attempt"]) == ("run", "echo", 0)
    chosen = next(o for o in last["options"] if o["worker_id"] == last["chosen"])
    assert chosen["passed"]
    terms = ("wait", "load", "wake", "ext", "prefill", "decode")
    assert chosen["score"]["total"] == pytest.approx(
        sum(chosen["score"][term] for term in terms), abs=0.01
    )
    assert all(o["why"] for o in last["options"] if not o["passed"])


def test_of_a_job_that_waits_the_present_decision_is_told_and_nothing_is_changed_by_asking(
    queen: httpx.Client, submit: Submit
) -> None:
    running(queen, submit(FOREVER))
    waits = submit("x")
    before = queen.get(f"/v1/jobs/{waits}").json()
    for _ in range(3):
        why = queen.get(f"/v1/jobs/{waits}/decision").json()
        assert (why["state"], why["decisions"][-1]["verdict"]) == ("queued", "wait")
        assert [d["verdict"] for d in why["decisions"]].count("wait") == 1
    after = queen.get(f"/v1/jobs/{waits}").json()
    assert before | {"eta_ms": 0} == after | {"eta_ms": 0}


def test_nothing_is_decided_about_work_without_a_model(queen: httpx.Client) -> None:
    job_id = queen.post("/v1/jobs", json={"operation": "status"}).json()["job_id"]
    ended(queen, job_id)
    assert queen.get(f"/v1/jobs/{job_id}/decision").json()["decisions"] == []
    assert queen.get("/v1/jobs/j-unknown1/decision").status_code == 404


def test_a_full_queue_and_a_deadline_nobody_can_keep_say_when_to_come_back(
    queen: httpx.Client, submit: Submit
) -> None:
    running(queen, submit(FOREVER, max_tokens=1000))
    body = {"operation": "infer", "model": "echo", "prompt": "x"}
    hurried = queen.post("/v1/jobs", json=body | {"deadline_ms": 1})
    error = hurried.json()["error"]
    assert (hurried.status_code, error["code"]) == (429, "QUEUE_FULL")
    assert error["details"]["predicted_ms"] > error["details"]["deadline_ms"]
    for _ in range(3):
        submit("x")
    full = queen.post("/v1/jobs", json=body)
    assert (full.status_code, full.json()["error"]["code"]) == (429, "QUEUE_FULL")
    for reply in (hurried, full):
        wait = reply.json()["error"]["details"]["retry_after"]
        assert wait >= 1
        assert reply.headers["Retry-After"] == str(wait)
        assert reply.headers["X-Backoff-Ms"] == str(wait * 1000)


def test_a_drain_is_a_job_that_ends_with_the_workers_last_work(
    queen: httpx.Client, submit: Submit, user: Home
) -> None:
    last = submit("@delay=50 @repeat=40 x")
    running(queen, last)
    worker = queen.get(f"/v1/jobs/{last}").json()["worker_id"]
    drain = queen.post("/v1/jobs", json={"operation": "worker_drain", "worker_id": worker}).json()
    assert [w["draining"] for w in user.workers() if w["worker_id"] == worker] == [True]
    events = queen.get(f"/v1/jobs/{drain['job_id']}/stream").text
    result = json.loads(events.split("event: result\ndata: ")[1].splitlines()[0])
    assert result == {"worker_id": worker, "state": "stopped"}
    info = queen.get(f"/v1/jobs/{last}").json()
    assert (info["state"], info["tokens_out"], info["resumes"]) == ("completed", 40, 0)
