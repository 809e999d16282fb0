"""The store: events in, figures and orders out."""

from __future__ import annotations

import colony_data as data
import msgspec
from screen_driver import Clock

from rbee.protocol.colony import HiveGone, Models, Narration, Telemetry, WorkerGone
from rbee.protocol.jobs import JobInfo, JobState
from rbee.tui.store import FINISHED_JOBS, HISTORY, NARRATION_LINES, ColonyStore, Link


def filled() -> ColonyStore:
    store = ColonyStore(clock=Clock())
    store.link_changed(Link.UP, url="http://127.0.0.1:8500")
    store.apply("snapshot", data.full())
    return store


def test_counts_come_from_the_rows() -> None:
    counts = filled().counts()
    assert (counts.hives_online, counts.hives_total) == (3, 4)
    assert (counts.workers_live, counts.workers_loading, counts.workers_failed) == (5, 1, 1)
    assert (counts.jobs_running, counts.jobs_queued) == (2, 1)


def test_a_machine_has_as_many_workers_as_are_listed_there() -> None:
    store = filled()
    assert store.hives["pi-hive"].workers == 1
    store.apply("worker", msgspec.structs.replace(data.WORKERS[0], hive="pi-hive"))
    store.apply("hive", msgspec.structs.replace(store.hives["pi-hive"], workers=0))
    assert store.hives["pi-hive"].workers == 2
    store.apply("worker_gone", WorkerGone(worker_id="w-01", reason="removed"))
    assert store.hives["pi-hive"].workers == 1


def test_workers_are_ordered_by_id_with_the_dead_last() -> None:
    assert [worker.worker_id for worker in filled().worker_list()] == [
        "w-01",
        "w-02",
        "w-03",
        "w-05",
        "w-06",
        "w-04",
    ]


def test_jobs_are_ordered_running_queued_finished() -> None:
    store = filled()
    assert [job.job_id for job in store.job_list()] == ["j-118", "j-119", "j-120", "j-117"]
    assert [job.job_id for job in store.active_jobs()] == ["j-118", "j-119", "j-120"]


def test_a_delta_replaces_the_object_of_the_same_id() -> None:
    store = filled()
    store.apply("job", msgspec.structs.replace(data.JOBS[2], state=JobState.RUNNING))
    assert store.counts().jobs_queued == 0
    store.apply("worker_gone", WorkerGone(worker_id="w-04", reason="removed"))
    assert "w-04" not in store.workers
    store.apply("hive_gone", HiveGone(name="laptop"))
    assert store.counts().hives_total == 3
    store.apply("models", Models(models=[]))
    assert store.offered_models() == []


def test_hidden_models_are_not_offered_and_ids_are_listed_once() -> None:
    store = filled()
    store.models = [*store.models, store.models[1]]
    assert [model.id for model in store.offered_models()] == [
        "llama-3.2-3b",
        "qwen2.5-32b-q4",
        "smollm2-135m",
    ]


def test_telemetry_moves_devices_and_keeps_a_minute() -> None:
    store = filled()
    for name, event in data.telemetry(HISTORY + 20):
        store.apply(name, event)
    view = next(view for view in store.device_views() if view.title == "mule:0")
    assert len(view.history) == HISTORY
    assert view.history[-1] == 95
    assert view.memory_fraction is not None
    assert abs(view.memory_fraction - 21.3 / 24) < 0.01


def test_telemetry_of_an_unknown_hive_changes_nothing() -> None:
    store = filled()
    store.apply("telemetry", Telemetry(hive="nobody", devices=[]))
    assert "nobody" not in store.hives


def test_device_titles() -> None:
    titles = [view.title for view in filled().device_views()]
    assert titles == ["attic:0", "mule:0", "mule:1", "pi-hive"]
    store = ColonyStore(clock=Clock())
    both = msgspec.structs.replace(
        data.hive("mule"), devices=[*data.DEVICES["mule"], data.DEVICES["pi-hive"][0]]
    )
    store.apply("hive", both)
    assert [view.title for view in store.device_views()] == ["mule:0", "mule:1", "mule:cpu"]


def test_narration_is_a_ring_and_survives_a_reconnection_without_doubles() -> None:
    store = filled()
    lines = len(store.narration)
    store.say("queen", "restarted")
    store.apply("snapshot", data.full())
    assert len(store.narration) == lines + 1
    for at in range(NARRATION_LINES + 10):
        store.apply("narration", Narration(at=data.NOW + at, source="queen", message=str(at)))
    assert len(store.narration) == NARRATION_LINES
    assert store.narration[-1].message == str(NARRATION_LINES + 9)


def test_finished_jobs_are_forgotten_in_the_end() -> None:
    store = filled()
    for at in range(FINISHED_JOBS + 50):
        store.apply(
            "job",
            JobInfo(
                job_id=f"k-{at}",
                operation="infer",
                state=JobState.COMPLETED,
                finished_at=data.NOW + at,
            ),
        )
    assert len(store.jobs) == FINISHED_JOBS + 3
    assert "j-118" in store.jobs
    assert "j-117" not in store.jobs


def test_uptime_goes_on_and_stops_with_the_link() -> None:
    clock = Clock()
    store = ColonyStore(clock=clock)
    assert store.uptime() is None
    store.link_changed(Link.UP, url="http://127.0.0.1:8500")
    store.apply("snapshot", data.full())
    clock.now += 5
    assert store.uptime() == 8045
    assert store.tokens_per_second() == 143
    store.link_changed(Link.LOST, message="gone")
    assert store.uptime() is None
    assert store.tokens_per_second() == 0
    assert store.worker_list(), "what was last known stays readable"


def test_tick_samples_once_a_second_and_only_while_connected() -> None:
    clock = Clock()
    store = ColonyStore(clock=clock)
    store.tick()
    assert not store.queue_depth
    store.link_changed(Link.UP)
    store.apply("snapshot", data.full())
    store.tick()
    store.tick()
    clock.now += 1
    store.tick()
    assert list(store.queue_depth) == [1, 1]
    assert list(store.throughput) == [143, 143]


def test_port_is_the_queens_own_word_when_she_has_said_it() -> None:
    store = ColonyStore(clock=Clock())
    assert store.port() == ""
    store.url = "http://127.0.0.1:9999"
    assert store.port() == ":9999"
    store.address = "http://127.0.0.1:8500"
    assert store.port() == ":8500"
