"""Scenarios: streams that outlive their worker, their machine and their queen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pytest_bdd import given, parsers, scenarios, then, when

from tests.features.story import Story
from tests.support.colony import Colony
from tests.support.home import wait_for
from tests.support.told import Told, follow

scenarios("survival.feature")


# ---- given ---------------------------------------------------------------------------------------


@given(parsers.parse("a queen with the machine {name} behind a line that can be cut"))
def behind_a_line(story: Story, name: str) -> Iterator[None]:
    story.colony = Colony(story.home, (name,), behind=True)
    yield
    story.colony.close()


# ---- when ----------------------------------------------------------------------------------------


@when(parsers.parse("its answer has {count:d} tokens"))
def has_tokens(story: Story, count: int) -> None:
    def under_way() -> list[dict[str, Any]]:
        jobs = story.home.get("/v1/jobs")["jobs"]
        return [job for job in jobs if job["state"] in ("dispatched", "running")]

    (job,) = wait_for(under_way, what="it runs")
    story.job, story.worker = job["job_id"], job["worker_id"]
    follow(story.home.url, story.job, until=lambda told: told.kinds.count("token") >= count)


@when(parsers.parse("the machine {name} dies"))
def machine_dies(story: Story, name: str) -> None:
    story.colony.kill_hive(name)


@when("the queen is killed and started again")
def queen_again(story: Story) -> None:
    story.colony.kill_queen()
    story.colony.start_queen()


@when("the line is cut")
def cut(story: Story) -> None:
    for line in story.colony.lines["attic"]:
        line.cut()


@when("the line is mended")
def mend(story: Story) -> None:
    for line in story.colony.lines["attic"]:
        line.mend()


@when(parsers.parse("the queen says that {name} is offline"))
def said_offline(story: Story, name: str) -> None:
    wait_for(lambda: name not in story.colony.online(), limit=10, what=f"{name} is offline")


# ---- then ----------------------------------------------------------------------------------------


@then(parsers.parse("its stream is whole and was begun on {one} and ended on {other}"))
def moved(story: Story, one: str, other: str) -> None:
    told = stream_of(story)
    assert [data["hive"] for data in told.of("started")] == [one, other]
    resumed(story)


@then("its stream is whole and it was resumed once")
def resumed(story: Story) -> None:
    told = stream_of(story)
    first, second = told.of("started")
    assert (first["attempt"], first["tokens_before"]) == (1, 0)
    assert second["attempt"] == 2
    at = [n for n, kind in enumerate(told.kinds) if kind == "started"][1]
    assert second["tokens_before"] == told.kinds[:at].count("token") > 0
    assert told.of("metrics")[-1]["resumed"] == 1
    assert story.home.get(f"/v1/jobs/{story.job}")["resumes"] == 1


@then(parsers.parse("its stream is whole and ends with {kind}"))
def ends_with(story: Story, kind: str) -> None:
    assert stream_of(story).end == kind


@then(parsers.parse('its stdout begins with "{text}"'))
def stdout_begins(story: Story, text: str) -> None:
    assert story.home.out(story.background).startswith(text)


@then("the job has kept what was printed")
def kept(story: Story) -> None:
    job = story.home.get(f"/v1/jobs/{story.job}")
    printed = story.home.out(story.background)
    assert (job["state"], job["dead"]) == ("failed", True)
    assert job["tokens_out"] == len(printed.split())
    assert stream_of(story).text.strip() == printed.strip()


@then("both answers are the same")
def same_answer(story: Story) -> None:
    assert len(story.result.stdout.split()) > 10
    assert story.home.out(story.background).strip() == story.result.stdout.strip()


@then("the worker is there again")
def there_again(story: Story) -> None:
    wait_for(lambda: story.worker in story.colony.workers(), what="the worker")
    assert story.home.get(f"/v1/jobs/{story.job}")["worker_id"] == story.worker


def stream_of(story: Story) -> Told:
    return follow(story.home.url, story.job).whole()
