"""What a reference means: who is asked, and when an answer is still good."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from rbee.core.fleet import Fleet, Worker
from rbee.daemons.queen import finder
from rbee.daemons.queen.finder import Finder
from rbee.errors import HiveNotFound, HiveOffline, ModelNotFound, NoWorkers
from rbee.protocol.hives import ModelInfo
from rbee.protocol.workers import WorkerSpec, WorkerState

pytestmark = pytest.mark.anyio


class Time:
    mono = 0.0

    def monotonic(self) -> float:
        return self.mono

    def utc(self) -> float:
        return self.mono


class Shelf:
    """A hive that only knows models. `gate`: answers come when it is open."""

    token = ""

    def __init__(self, name: str, **models: str) -> None:
        self.name, self.models = name, models
        self.asked = 0
        self.gate = anyio.Event()
        self.gate.set()

    async def resolve(self, ref: str) -> ModelInfo:
        self.asked += 1
        await self.gate.wait()
        if ref not in self.models:
            raise ModelNotFound(f"{self.name} has no {ref}")
        return ModelInfo(id=ref, ref=ref, path=self.models[ref], format="gguf", size=1)


class Scene:
    def __init__(self, *shelves: Shelf) -> None:
        self.links: dict[str, Any] = {shelf.name: shelf for shelf in shelves}
        self.fleet, self.time = Fleet(), Time()
        self.finder = Finder(self.links, self.fleet, self.time)

    def worker(self, hive: str, model: str, path: str) -> Worker:
        spec = WorkerSpec(
            worker_id=self.fleet.new_worker_id(), model_id=model, model_path=path, format="gguf",
            backend="echo", device="cpu", slots=1, ctx=512,
        )  # fmt: skip
        info = ModelInfo(id=model, ref=model, path=path, format="gguf", size=1)
        worker = Worker(
            spec=spec, hive=hive, model=info, need_bytes=0, started_at=0.0, started_mono=0.0
        )
        self.fleet.add(worker)
        return worker


async def test_an_answer_is_good_while_a_worker_serves_that_very_file():
    home = Shelf("home", tiny="/a")
    scene = Scene(home)
    for times in (1, 2):
        assert (await scene.finder.find("tiny")).path == "/a"
        assert home.asked == times  # nobody serves it: the file may be gone by now
    worker = scene.worker("home", "tiny", "/a")
    for _ in range(3):
        assert (await scene.finder.find("tiny")).path == "/a"
    assert home.asked == 2
    worker.life.to(WorkerState.STOPPING)
    scene.fleet.touch(worker)
    home.models["tiny"] = "/b"
    assert (await scene.finder.find("tiny")).path == "/b"
    scene.worker("home", "tiny", "/a")
    assert (await scene.finder.find("tiny")).path == "/b"
    assert home.asked == 4


async def test_an_answer_is_asked_for_again_after_a_while_and_of_a_hive_that_came_back():
    home = Shelf("home", tiny="/a")
    scene = Scene(home)
    scene.worker("home", "tiny", "/a")
    await scene.finder.find("tiny")
    scene.time.mono += finder.FRESH + 1
    await scene.finder.find("tiny")
    await scene.finder.find("tiny")
    assert home.asked == 2
    again = Shelf("home", tiny="/a")
    scene.links["home"] = again
    await scene.finder.find("tiny")
    assert (home.asked, again.asked) == (2, 1)


async def test_a_pinned_hive_is_asked_unless_it_has_a_worker_itself():
    home, away = Shelf("home", tiny="/a"), Shelf("away", tiny="/a")
    scene = Scene(home, away)
    scene.worker("home", "tiny", "/a")
    for _ in range(2):
        await scene.finder.find("tiny", "away")
    assert (home.asked, away.asked) == (0, 2)
    scene.worker("away", "tiny", "/a")
    await scene.finder.find("tiny", "away")
    assert away.asked == 2


async def test_those_who_ask_at_once_share_the_answer_and_the_refusal():
    home = Shelf("home", tiny="/a")
    scene = Scene(home)
    found: list[str] = []

    async def find(ref: str) -> None:
        try:
            found.append((await scene.finder.find(ref)).path)
        except ModelNotFound as exc:
            found.append(exc.code)

    for ref in ("tiny", "none"):
        home.gate = anyio.Event()
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(find, ref)
            await anyio.wait_all_tasks_blocked()
            home.gate.set()
    assert home.asked == 2
    assert found == ["/a"] * 5 + ["MODEL_NOT_FOUND"] * 5


async def test_who_asks_for_others_may_leave():
    home = Shelf("home", tiny="/a")
    scene = Scene(home)
    home.gate = anyio.Event()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            first = anyio.CancelScope()

            async def leaves() -> None:
                with first:
                    await scene.finder.find("tiny")

            async def stays() -> None:
                assert (await scene.finder.find("tiny")).path == "/a"

            tasks.start_soon(leaves)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(stays)
            await anyio.wait_all_tasks_blocked()
            first.cancel()
            await anyio.wait_all_tasks_blocked()
            home.gate.set()
    assert home.asked == 2


async def test_of_several_hives_the_first_that_has_it_and_the_most_telling_refusal():
    home, away = Shelf("home"), Shelf("away", tiny="/a")
    scene = Scene(home, away)
    assert (await scene.finder.find("tiny")).path == "/a"
    with pytest.raises(ModelNotFound):
        await scene.finder.find("none")
    with pytest.raises(HiveNotFound, match="known: home, away"):
        await scene.finder.find("tiny", "nowhere")
    del scene.links["away"]
    scene.fleet.hives["away"] = None  # pyright: ignore[reportArgumentType]
    with pytest.raises(HiveOffline):
        await scene.finder.find("tiny", "away")
    scene.links.clear()
    with pytest.raises(NoWorkers):
        await scene.finder.find("tiny")
