"""Which hives have which models: told by them, found there, gone again, and shown to dashboards."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings
from msgspec import structs

from rbee.core.effects import Effect, Publish, StartWorker
from rbee.core.events import HiveJoined, HiveSaid, JobSubmitted, ModelLocated
from rbee.core.fleet import Fleet, HiveState
from rbee.core.holdings import MOST_LOCATED
from rbee.core.jobs import Job
from rbee.protocol.colony import Models
from rbee.protocol.hives import HiveModels, HiveWorker, ModelInfo
from rbee.protocol.operations import Infer
from rbee.protocol.workers import WorkerSpec
from tests.core.builders import World, capabilities, device, exited, model, of

DIGEST = "sha256:" + "cd" * 32


def known(name: str = "tiny", *, path: str | None = None, digest: str | None = None) -> ModelInfo:
    told = model(name)
    return structs.replace(told, path=path or told.path, digest=digest)


def says(hive: str, *models: ModelInfo) -> HiveSaid:
    return HiveSaid(hive, HiveModels(models=list(models), disk_free=5))


def published(effects: list[Effect]) -> list[list[str]]:
    return [
        [m.id for m in e.data.models]
        for e in effects
        if isinstance(e, Publish) and isinstance(e.data, Models)
    ]


def test_a_worker_is_started_with_the_path_its_model_has_on_that_very_hive() -> None:
    world = World(device(free_gib=0.1))
    here = known(path="/home/tiny", digest=DIGEST)
    world.tell(says("home", here))
    there = structs.replace(here, path="/away/tiny")
    caps = structs.replace(capabilities(device()), models=[there])
    world.tell(HiveJoined("away", "http", None, caps))
    job = Job(job_id="a", request=Infer(model="tiny", prompt="x"), created_at=0.0,
              queued_mono=world.now, model=here)  # fmt: skip
    (start,) = of(world.tell(JobSubmitted(job)), StartWorker)
    assert isinstance(start, StartWorker)
    assert start.hive == "away"
    assert (start.spec.model_path, start.spec.model_key) == ("/away/tiny", DIGEST)


def test_a_damaged_model_that_is_deleted_is_gone_under_both_its_names() -> None:
    world = World()
    whole = known(path="/m/tiny", digest=DIGEST)
    world.tell(says("home", whole))
    world.tell(ModelLocated("home", structs.replace(whole, digest=None)))
    holdings = world.colony.fleet.holdings
    assert set(holdings.of("/m/tiny")) == {"home"}
    world.tell(says("home"))
    assert (dict(holdings.of("/m/tiny")), dict(holdings.of(DIGEST))) == ({}, {})
    assert "tiny" not in [m.id for m, _, _ in world.colony.fleet.held_models()]


def test_what_a_hive_lists_no_more_is_not_started_there_again() -> None:
    world = World()
    world.submit("a")
    world.bring_up("w-01")
    world.tell(says("home", known("other")))
    assert world.colony.fleet.hives["home"].capabilities.disk_free == 5
    world.tell(exited("w-01"))
    assert world.jobs["a"].error_message == "home does not have tiny"


def test_a_file_that_was_found_stays_known_until_it_was_listed_and_is_no_more() -> None:
    world = World()
    file = known("mine", path="/elsewhere/mine.gguf")
    hive = world.colony.fleet.hives["home"]
    world.tell(ModelLocated("home", file))
    world.tell(says("home", known()))
    assert hive.paths == {
        "/elsewhere/mine.gguf": "/elsewhere/mine.gguf",
        "/tiny.gguf": "/tiny.gguf",
    }
    world.tell(says("home", known(), file))
    world.tell(says("home", known()))
    assert set(hive.paths) == {"/tiny.gguf"}
    world.tell(ModelLocated("nowhere", file))
    assert not world.colony.fleet.holdings.of(file.key)


def test_what_was_found_is_still_known_when_the_hive_comes_back() -> None:
    world = World()
    file = known("mine", path="/elsewhere/mine.gguf")
    world.tell(ModelLocated("home", file))
    world.tell(HiveJoined("home", "local", None, capabilities()))
    assert set(world.colony.fleet.holdings.of(file.key)) == {"home"}


def test_found_files_are_bounded_and_a_moved_one_is_where_it_is_now() -> None:
    fleet = Fleet()
    caps = capabilities(models=())
    hive = HiveState(name="home", kind="http", url=None, capabilities=caps)
    fleet.join(hive)
    fleet.holdings.locate(hive, known("m", path="/old", digest=DIGEST))
    fleet.holdings.locate(hive, known("m", path="/new", digest=DIGEST))
    assert hive.paths == {DIGEST: "/new"}
    for n in range(MOST_LOCATED + 5):
        fleet.holdings.locate(hive, known(f"m{n}", path=f"/{n}"))
    assert len(hive.paths) == MOST_LOCATED
    assert not fleet.holdings.of("/0")
    assert not fleet.holdings.locate(hive, structs.replace(model(), path=""))


def test_dashboards_are_told_when_the_colony_has_other_models_and_only_then() -> None:
    world = World()
    assert published(world.tell(says("home", known("a"), known("b")))) == [["a", "b"]]
    assert published(world.tell(says("home", known("b"), known("a")))) == []
    twin = structs.replace(capabilities(), models=[known("a")])
    assert published(world.tell(HiveJoined("away", "http", None, twin))) == []
    assert published(world.tell(says("home", known("b")))) == []
    assert published(world.tell(says("away"))) == [["b"]]
    assert published(world.tell(ModelLocated("away", known("c")))) == [["b", "c"]]
    world.colony.watch(False)
    assert published(world.tell(says("home"))) == []


def test_held_models_name_hives_and_workers() -> None:
    world = World()
    world.tell(says("home", known("a"), structs.replace(known("echo"), hidden=True)))
    world.tell(HiveJoined("away", "http", None, capabilities(models=("a",))))
    world.submit("job", model_name="a")
    held = [(m.id, hives, n) for m, hives, n in world.colony.fleet.held_models()]
    assert held == [("a", ["home", "away"], 1), ("echo", ["home"], 0)]


def test_an_adopted_worker_serves_jobs_whether_its_spec_knows_the_key_or_not() -> None:
    for key in ("", DIGEST):
        world = World(device(free_gib=0.1))
        spec = WorkerSpec(
            worker_id="w-07", model_id="tiny", model_path="/away/tiny", format="gguf",
            backend="llamacpp", device="cpu", slots=1, ctx=4096, model_key=key,
        )  # fmt: skip
        caps = structs.replace(capabilities(), models=[known(path="/away/tiny", digest=DIGEST)])
        there = HiveWorker(spec=spec, pid=1, log_path="", started_at=0.0)
        world.tell(HiveJoined("away", "http", None, caps, [there]))
        assert world.colony.fleet.pool("tiny", DIGEST) is not None
    unlisted = World()
    there = HiveWorker(spec=spec, pid=1, log_path="", started_at=0.0)
    unlisted.tell(HiveJoined("away", "http", None, capabilities(models=()), [there]))
    assert unlisted.colony.fleet.pool("tiny", DIGEST) is not None
    assert set(unlisted.colony.fleet.holdings.of(DIGEST)) == {"away"}


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("xyz"),
            st.sampled_from(["join", "list", "locate"]),
            st.sets(st.sampled_from("abcd"), max_size=3),
        ),
        max_size=25,
    )
)
def test_the_tables_are_what_a_look_at_all_hives_would_find(
    steps: list[tuple[str, str, set[str]]],
) -> None:
    fleet = Fleet()
    union: set[str] = set()
    for name, what, names in steps:
        hive = fleet.hives.get(name)
        models = [known(n) for n in sorted(names)]
        if what == "join" or hive is None:
            caps = structs.replace(capabilities(), models=models)
            changed = fleet.join(HiveState(name=name, kind="http", url=None, capabilities=caps))
        elif what == "list":
            changed = fleet.holdings.listed(hive, models, 0)
        else:
            news = [fleet.holdings.locate(hive, m) for m in models]
            changed = any(news)
        for key in (f"/{n}.gguf" for n in "abcd"):
            having = {h.name for h in fleet.hives.values() if key in h.paths}
            assert set(fleet.holdings.of(key)) == having
            assert all(fleet.hives[h] is fleet.holdings.of(key)[h] for h in having)
        before, union = union, {k for h in fleet.hives.values() for k in h.paths}
        assert changed == (before != union)
