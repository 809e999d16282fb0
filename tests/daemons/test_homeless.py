"""Jobs of an earlier queen whose hive comes back later than the queen, or never."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from msgspec.structs import replace

from rbee import naming
from rbee.core.events import HiveJoined, ShutdownAsked
from rbee.daemons.queen.store import Store
from rbee.errors import QueueFull
from rbee.protocol.base import decode, encode
from rbee.protocol.hives import ModelInfo
from rbee.protocol.jobs import CancelledData, ErrorData, EventType, JobInfo, JobState, StatusData
from rbee.protocol.operations import Infer, Priority
from tests.core.builders import capabilities, device, model
from tests.daemons.reigns import ENDS, INFER, Library, Reign, World, kinds, say
from tests.daemons.stores import content
from tests.support.home import Home, wait_for

pytestmark = pytest.mark.anyio

GONE = Infer(model="gone", prompt="x")
FAR = Infer(model="tiny", prompt="x", hive="far")


class Everything(Library):
    """A hive that has the model which the others lack."""

    async def resolve(self, ref: str) -> ModelInfo:
        return model(ref)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def lease(queen: Reign, seconds: float) -> None:
    old = queen.admission.settings
    queen.admission.settings = replace(old, hive=replace(old.hive, lease=seconds))


async def comes(queen: Reign, name: str, library: Library, *devices: Any) -> None:
    """A hive joins, as its link tells it."""
    queen.links[name] = library
    await queen.brain.call(HiveJoined(name, "http", None, capabilities(*devices)))
    await queen.recovery.hive_joined()


async def test_a_job_waits_for_its_hive_and_says_so(world: World) -> None:
    async with world.reign() as queen:
        await queen.accept("a")
        await queen.set_state("a", JobState.DISPATCHED, attempts=1, worker_id="w-01", hive="home")
    async with world.reign(hives=False) as queen:
        await queen.recovery.run()
        assert not queen.submitted()
        now = await queen.told("a")
        assert kinds(now) == ["queued", "status"]
        assert decode(now[1][1], StatusData).stage == "waiting"
        info = await queen.state("a")
        assert (info.state, info.worker_id, info.hive) == ("queued", None, None)
        assert "no hive" in (info.waiting_for or "")
        assert queen.recovery.homeless() == [info]
        await comes(queen, "home", queen.library)
        assert [job.job_id for job in queen.submitted()] == ["a"]
        assert queen.submitted()[0].attempt == 1
        assert not queen.recovery.homeless()
        assert "recovered" in (await queen.told("a"))[2][1].decode()


async def test_a_model_that_only_another_hive_has_is_waited_for(world: World) -> None:
    async with world.reign() as queen:
        stream = await queen.accept("answer", Infer(model="gone", prompt="x", max_tokens=50))
        say(stream, "the", " bees")
        await queen.set_state("answer", JobState.RUNNING)
        told = await queen.told("answer")
        await queen.accept("later", GONE)
        await queen.accept("here")
    async with world.reign() as queen:
        await queen.recovery.run()
        assert [job.job_id for job in queen.submitted()] == ["here"]
        assert [info.job_id for info in queen.recovery.homeless()] == ["answer", "later"]
        await comes(queen, "third", queen.library)
        assert len(queen.recovery.homeless()) == 2
        assert kinds(await queen.told("later")) == ["queued", "status"]
        await comes(queen, "far", Everything())
        assert [job.job_id for job in queen.submitted()] == ["here", "answer", "later"]
        assert queen.submitted()[1].tokens_out == 2
        assert (await queen.told("answer"))[: len(told)] == told


async def test_a_device_that_only_another_hive_has_is_waited_for(world: World) -> None:
    async with world.reign() as queen:
        await queen.accept("a", Infer(model="tiny", prompt="x", device="cuda:7"))
    async with world.reign() as queen:
        await queen.recovery.run()
        assert not queen.submitted()
        await comes(queen, "far", queen.library, device("cuda:7"))
        assert [job.job_id for job in queen.submitted()] == ["a"]


@pytest.mark.parametrize(
    "operation, hives, code, named",
    [
        (FAR, True, "HIVE_OFFLINE", "far"),
        (INFER, False, "NO_WORKERS", "tiny"),
        (GONE, True, "MODEL_NOT_FOUND", "gone"),
        (Infer(model="tiny", prompt="x", worker_id="w-77"), True, "NOT_FOUND", "w-77"),
    ],
)
async def test_when_the_lease_is_over_it_ends_with_what_it_lacked(
    world: World, operation: Infer, hives: bool, code: str, named: str
) -> None:
    async with world.reign() as queen:
        await queen.accept("a", operation)
        await queen.set_state("a", JobState.DISPATCHED)
    for _ in range(2):  # a queen that is killed before that leaves it to the next
        async with world.reign(hives=hives) as queen:
            await queen.recovery.run()
            assert (await queen.state("a")).state == "queued"
    async with world.reign(hives=hives) as queen:
        await queen.recovery.run()
        lease(queen, 0.02)
        await queen.recovery.wait_for_hives()
        assert not queen.recovery.homeless()
        assert not queen.submitted()
        told = await queen.told("a")
        assert [kind for kind in kinds(told) if kind in ENDS] == ["error"]
        error = decode(told[-1][1], ErrorData)
        assert error.code == code
        assert named in error.message
        info = await queen.state("a")
        assert (info.state, info.error_code) == ("failed", code)
        assert info.finished_at
    async with world.reign() as queen:
        await queen.recovery.run()
        assert await queen.told("a") == told


async def test_those_that_wait_for_nothing_are_done_with_at_once(world: World) -> None:
    async with world.reign() as queen:
        await queen.accept("a")
    async with world.reign() as queen:
        await queen.recovery.run()
        lease(queen, 100_000.0)
        await queen.recovery.wait_for_hives()
        assert [job.job_id for job in queen.submitted()] == ["a"]


async def test_one_that_waits_can_be_cancelled(world: World) -> None:
    async with world.reign() as queen:
        await queen.accept("a", GONE)
        await queen.accept("b", GONE)
    async with world.reign() as queen:
        await queen.recovery.run()
        ended = queen.recovery.cancel("a", "by hand")
        assert ended is not None
        assert (ended.state, ended.waiting_for) == ("cancelled", None)
        assert queen.recovery.cancel("a", "again") is None
        assert await queen.state("a") == ended
        await comes(queen, "far", Everything())
        assert [job.job_id for job in queen.submitted()] == ["b"]
        told = await queen.told("a")
        assert [kind for kind in kinds(told) if kind in ENDS] == ["cancelled"]
        assert decode(told[-1][1], CancelledData).reason == "by hand"
        assert await queen.store.stream("a") == told
    async with world.reign() as queen:
        await queen.recovery.run()
        assert await queen.told("a") == told


async def test_one_that_is_cancelled_while_its_hive_is_asked_stays_so(world: World) -> None:
    class Slow(Everything):
        async def resolve(self, ref: str) -> ModelInfo:
            asked.set()
            await answers.wait()
            return model(ref)

    asked, answers = anyio.Event(), anyio.Event()
    async with world.reign() as queen:
        await queen.accept("a", GONE)
        await queen.accept("b", GONE)
    async with world.reign() as queen:
        await queen.recovery.run()
        async with anyio.create_task_group() as link:
            link.start_soon(comes, queen, "far", Slow())
            await asked.wait()
            assert queen.recovery.cancel("a", "by hand") is not None
            answers.set()
        assert [job.job_id for job in queen.submitted()] == ["b"]
        assert (await queen.state("a")).state == "cancelled"


async def test_without_retention_nothing_of_one_that_was_cancelled_stays(world: World) -> None:
    async with world.reign(retention=0) as queen:
        await queen.accept("a", Infer(model="gone", prompt="secret question"))
    async with world.reign(retention=0) as queen:
        await queen.recovery.run()
        assert b"secret" in content(world.folder)
        assert queen.recovery.cancel("a", "by hand") is not None
        await queen.streams.settle()
        assert await queen.store.job("a") is None
        assert b"secret" not in content(world.folder)


async def test_a_queen_that_stops_leaves_them_to_the_next(world: World) -> None:
    async with world.reign() as queen:
        await queen.accept("a", GONE)
    async with world.reign() as queen:
        await queen.recovery.run()
        await queen.brain.call(ShutdownAsked("test"))
        lease(queen, 0.02)
        await queen.recovery.wait_for_hives()
        await comes(queen, "far", Everything())
        assert (await queen.state("a")).state == "queued"
        assert not ENDS & set(kinds(await queen.told("a")))


async def test_they_count_for_the_queues_capacity(world: World) -> None:
    async with world.reign() as queen:
        await queen.accept("a", GONE)
    async with world.reign() as queen:
        await queen.recovery.run()
        old = queen.admission.settings
        one = replace(old, queen=replace(old.queen, queue_capacity=1))
        queen.admission.settings = one
        with pytest.raises(QueueFull):
            await queen.admission.submit(INFER)
        assert queen.recovery.cancel("a", "by hand") is not None
        await queen.admission.submit(INFER)


async def test_what_was_being_cancelled_does_not_go_on(world: World) -> None:
    async with world.reign() as queen:
        stream = await queen.accept("a")
        say(stream, "the", " bees")
        cancelling = StatusData(stage="cancelling", message="by hand")
        stream.append(EventType.STATUS, encode(cancelling))
        say(stream, " still")
        told = await queen.told("a")
    async with world.reign() as queen:
        await queen.recovery.run()
        assert not queen.submitted()
        now = await queen.told("a")
        assert (now[:-1], kinds(now)[-1]) == (told, "cancelled")
        assert decode(now[-1][1], CancelledData).reason == "by hand"
        assert ((await queen.state("a")).state, (await queen.state("a")).tokens_out) == (
            "cancelled",
            3,
        )


# ---- with a real queen --------------------------------------------------------------------------


def test_the_queue_shows_it_and_a_cancel_is_heard(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", RBEE_QUEEN_LINGER="0.02")
    try:
        assert home.rbee("queen", "start").returncode == 0
        (database,) = home.path.rglob("rbee.db")
        assert home.rbee("queen", "stop").returncode == 0
        job_id, other = naming.job_id(), naming.job_id()
        anyio.run(leave, database, job_id, other)
        assert home.rbee("worker", "list").returncode == 0  # a queen that would leave at once
        queue = home.get("/v1/queue")
        assert {job["job_id"] for job in queue["jobs"]} == {job_id, other}
        assert "far" in queue["jobs"][0]["waiting_for"]
        assert queue["depth"]["batch"] == 2
        assert queue["head_wait_seconds"] > 50
        url = f"{home.url}/v1/jobs/{job_id}"
        reply = httpx.delete(url, trust_env=False, timeout=30)
        assert (reply.status_code, reply.json()["state"]) == (200, "cancelled")
        again = httpx.delete(url, trust_env=False, timeout=30)
        assert again.json()["error"]["code"] == "JOB_FINISHED"
        seen = httpx.get(f"{url}/stream", trust_env=False, timeout=30).text
        assert seen.count("event: cancelled") == 1
        assert [job["job_id"] for job in home.get("/v1/queue")["jobs"]] == [other]
        httpx.delete(f"{home.url}/v1/jobs/{other}", trust_env=False, timeout=30)
        home.until_empty(30)
    finally:
        home.close()


async def leave(database: Path, *job_ids: str) -> None:
    """What an earlier queen has left: jobs for a hive that is not there."""
    request = Infer(model="echo", prompt="x", hive="far", priority=Priority.BATCH)
    store = Store.open(database)
    try:
        for job_id in job_ids:
            info = JobInfo(
                job_id=job_id, operation="infer", state=JobState.QUEUED, model="echo",
                hive="far", priority="batch", created_at=time.time() - 60,
            )  # fmt: skip
            await store.accept(info, encode(request))
    finally:
        store.close()


def test_a_cancel_that_was_confirmed_outlives_the_queen(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    try:
        assert home.rbee("queen", "start").returncode == 0
        body = {"operation": "infer", "model": "echo", "prompt": "@delay=20 @repeat=9999 bee"}
        path = f"/v1/jobs/{home.post('/v1/jobs', body).json()['job_id']}"
        wait_for(lambda: home.get(path)["state"] == "running", what="the answer's beginning")
        (worker,) = home.workers()
        os.kill(worker["pid"], signal.SIGSTOP)  # it hears nothing
        assert home.state is not None
        queen = home.state["pid"]
        reply = httpx.delete(home.url + path, trust_env=False, timeout=30)
        os.kill(queen, signal.SIGKILL)
        assert (reply.status_code, reply.json()["state"]) == (200, "running")
        os.kill(worker["pid"], signal.SIGKILL)
        home.until_empty(20)
        assert home.rbee("queen", "start").returncode == 0
        assert home.get(path)["state"] == "cancelled"
        seen = httpx.get(f"{home.url}{path}/stream", trust_env=False, timeout=30).text
        assert seen.count("event: cancelled") == 1
        assert "recovered" not in seen
    finally:
        home.close()
