"""One thing after the other dies while work keeps coming: every job has its one, whole answer."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator

import httpx
import pytest

from tests.support.colony import Colony, words
from tests.support.home import Home, wait_for
from tests.support.told import Reader

MACHINES = ("attic", "cellar")
DEATHS = ("worker", "queen", "hanging worker", "hive", "cancelled", "queen")
SEED = 39


@pytest.fixture
def colony(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Colony]:
    one = Colony(
        Home(tmp_path_factory.mktemp("torture")), MACHINES, RBEE_WORKER_SLOTS="3",
        RBEE_WORKER_HEARTBEAT="0.5", RBEE_WORKER_STALE_AFTER="3", RBEE_JOB_ATTEMPTS="30",
    )  # fmt: skip
    yield one
    one.close()
    one.home.until_empty(20)


@pytest.mark.lab
def test_no_death_costs_an_answer(colony: Colony) -> None:
    dice = random.Random(SEED)
    texts: dict[str, str] = {}
    readers: dict[str, Reader] = {}
    gone: set[str] = set()
    for death in DEATHS:
        for _ in range(6):
            text = words(dice.randrange(1, 40), f"j{len(texts)}-")
            job = ask(colony, dice, f"@delay={dice.choice([0, 20, 100])} {text}")
            texts[job], readers[job] = text, colony.reader(job)
        match death:
            case "queen":
                colony.kill_queen()
                colony.start_queen()
            case "hive":
                name = dice.choice(MACHINES)
                colony.kill_hive(name)
                colony.start_hives([name])
            case "cancelled":
                left = next(reversed(texts))
                gone.add(left)
                url = f"{colony.url}/v1/jobs/{left}"
                httpx.delete(url, timeout=10, trust_env=False)
            case _:
                worker = wait_for(lambda: busy(colony), what="a worker at work")
                hangs = death == "hanging worker"
                colony.signal_worker(worker, signal.SIGSTOP if hangs else signal.SIGKILL)
    for job, reader in readers.items():
        told = reader.whole()
        assert colony.follow(job).whole().events == told.events
        if job in gone and told.end == "cancelled":
            continue
        assert (told.end, told.text) == ("end", texts[job]), told.events[-3:]
    states = [job["state"] for job in colony.home.get("/v1/jobs?limit=1000")["jobs"]]
    assert sorted(set(states)) in (["cancelled", "completed"], ["completed"])
    assert len(states) == len(texts)


def ask(colony: Colony, dice: random.Random, prompt: str) -> str:
    """Again while a queen who was just started knows no machine yet."""
    client, priority = dice.choice("ABC"), dice.choice(["interactive", "batch"])
    wait_for(lambda: colony.online(), what="a machine")
    return colony.infer(prompt, client=client, priority=priority)


def busy(colony: Colony) -> str | None:
    """A worker that answers somebody; None when there is none now."""
    return next((name for name, worker in colony.workers().items() if worker["slots_busy"]), None)
