"""How many slots a worker gets, and what is said when memory is too short."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.core.colony import Colony
from rbee.core.effects import StartWorker
from rbee.core.events import HiveJoined, HiveSaid, JobSubmitted
from rbee.core.feasibility import Wish, places
from rbee.core.jobs import Job
from rbee.core.limits import Limits
from rbee.core.scheduling import Ect
from rbee.core.sizing import (
    Spread,
    ctx_that_fits,
    need_of,
    quant_that_fits,
    slots_that_fit,
    ways_out,
)
from rbee.errors import InsufficientRam, InsufficientVram, ValidationFailed
from rbee.protocol.hives import HiveTelemetry
from rbee.protocol.memory import KV_BITS, KvWindow, Measured
from rbee.protocol.operations import Infer, WorkerSpawn
from tests.core.builders import GIB, World, capabilities, device, model, of

MODEL = msgspec.structs.replace(model(gib=1.0), kv_bytes_per_token=100_000)


def colony(free_gib: float, *, most: int = 64, kind: str = "cpu") -> Colony:
    made = Colony(policy=Ect(ctx=4096), limits=Limits(), started_mono=0.0)
    known = capabilities(device(kind, free_gib=free_gib))
    backend = msgspec.structs.replace(known.backends[0], max_slots=most)
    joined = HiveJoined("home", "local", None, msgspec.structs.replace(known, backends=[backend]))
    list(made.handle(joined, now=1.0, utc=1e9))
    return made


def fitting(free_gib: float, *, most: int = 64, kind: str = "cpu", **wish):
    fleet = colony(free_gib, most=most, kind=kind).fleet
    return places(Wish(model=MODEL, ctx=4096, **wish), fleet)


def job(job_id: str) -> Job:
    request = Infer(model="tiny", prompt="x")
    return Job(job_id=job_id, request=request, created_at=0.0, queued_mono=1.0, model=MODEL)


def kv(slots: int, ctx: int = 4096, kv_type: str = "f16") -> float:
    return 100_000 * ctx * slots * KV_BITS[kv_type] / 16


def test_memory_is_weights_and_each_slots_context_and_a_margin():
    for slots in (1, 2, 8):
        need = MODEL.memory_needed(ctx=4096, slots=slots)
        plain = MODEL.weights_bytes + kv(slots) + MODEL.compute_bytes
        assert need == pytest.approx(plain + max(512 << 20, plain / 20), abs=1)


@pytest.mark.parametrize(
    "kv_type, share",
    [("f16", 1.0), ("bf16", 1.0), ("f32", 2.0), ("q8_0", 34 / 64), ("q4_0", 18 / 64)],
)
def test_a_contexts_bytes_follow_its_type(kv_type, share):
    assert MODEL.kv_bytes(ctx=4096, slots=3, kv_type=kv_type) == pytest.approx(kv(3) * share, abs=1)
    assert MODEL.kv_bytes(ctx=4097, slots=1) == MODEL.kv_bytes(ctx=4352, slots=1)


def test_a_long_context_needs_larger_masks():
    short = msgspec.structs.replace(MODEL, kv_bytes_per_token=0)
    more = short.memory_needed(ctx=128 << 10, slots=1) - short.memory_needed(ctx=4096, slots=1)
    assert more == (124 << 10) * 512 * 2


@pytest.mark.parametrize("free_gib, most, slots", [(64, 64, 8), (64, 4, 4), (4, 64, 6), (2, 64, 1)])
def test_as_many_slots_as_fit_up_to_the_usual(free_gib, most, slots):
    (place,), bad = fitting(free_gib, most=most)
    assert not bad
    assert place.slots == slots
    assert place.need_bytes == MODEL.memory_needed(ctx=4096, slots=slots) <= free_gib * GIB


def test_a_smaller_kind_of_context_gives_more_slots():
    (half,), _ = fitting(3, kv_type="q8_0")
    (full,), _ = fitting(3)
    assert full.slots < half.slots
    assert half.kv_type == "q8_0"


def test_an_asked_for_number_is_kept_or_refused_with_what_would_fit():
    (place,), _ = fitting(64, slots=32)
    assert place.slots == 32
    good, (error,) = fitting(4, slots=32)
    assert not good
    assert isinstance(error, InsufficientRam)
    assert error.details["required"] == MODEL.memory_needed(ctx=4096, slots=32)
    assert error.details["available"] == 4 * GIB
    assert "32 × 4096 tokens" in error.message
    assert error.action == "Set worker.slots to 6, or worker.ctx to 512."


def test_a_gpu_that_is_too_small_says_what_would_fit():
    _, (error,) = fitting(2.2, kind="cuda:0")
    assert isinstance(error, InsufficientVram)
    assert error.action == "Set worker.ctx to 2048, or worker.kv_type to q8_0."
    _, (error,) = fitting(0.5, kind="cuda:0")
    assert "Set" not in error.action


def test_a_gpu_takes_its_drivers_share_and_not_what_stays_in_main_memory():
    split = msgspec.structs.replace(MODEL, gpu_weights_bytes=MODEL.weights_bytes - (100 << 20))
    for info, less in ((MODEL, 0), (split, 100 << 20)):
        used = info.memory_used(ctx=4096, slots=2, device_kind="cuda")
        assert used == MODEL.memory_used(ctx=4096, slots=2) - less
        need = info.memory_needed(ctx=4096, slots=2, device_kind="cuda")
        assert need == used + (400 << 20) + max(512 << 20, used // 20)
    assert split.memory_needed(ctx=4096, slots=2) == MODEL.memory_needed(ctx=4096, slots=2)


def test_layers_with_a_window_keep_no_more_than_that():
    """Half the layers look back 1024 tokens; 512 more are kept while they are computed."""
    windows = [KvWindow(tokens=1000, bytes_per_token=50_000)]
    narrow = msgspec.structs.replace(MODEL, kv_windows=windows)
    assert narrow.kv_bytes(ctx=1024, slots=3) == MODEL.kv_bytes(ctx=1024, slots=3)
    assert narrow.kv_bytes(ctx=8192, slots=3) == 3 * 50_000 * (8192 + 1536)
    assert (
        narrow.kv_bytes(ctx=8192, slots=3, kv_type="q8_0") == 3 * 50_000 * (8192 + 1536) * 8.5 / 16
    )


def test_without_flash_attention_all_scores_are_held_at_once():
    headed = msgspec.structs.replace(MODEL, heads=32)
    plain = headed.memory_used(ctx=8192, slots=4, flash=False)
    assert plain - headed.memory_used(ctx=8192, slots=4) == 512 * 8192 * (4 * 32 + 2)


def test_a_recurrent_state_is_paid_per_slot():
    state = msgspec.structs.replace(MODEL, state_bytes=7 << 20)
    more = state.memory_used(ctx=4096, slots=5) - MODEL.memory_used(ctx=4096, slots=5)
    assert more == 5 * (7 << 20) + 4 * 4096 * 1024  # and one mask over all slots' contexts


SEEN = Measured(
    backend="llamacpp", device_kind="cpu", ctx=4096, slots=2, kv_type="f16", flash=True,
    bytes=3 * GIB,
)  # fmt: skip


def test_what_was_measured_of_the_very_shape_is_preferred():
    known = msgspec.structs.replace(MODEL, measured=[SEEN])
    assert known.memory_used(ctx=4000, slots=2) == 3 * GIB
    assert known.memory_needed(ctx=4096, slots=2, backend="llamacpp") == 3 * GIB + (512 << 20)
    others = [
        {"slots": 3}, {"ctx": 4097}, {"kv_type": "q8_0"}, {"device_kind": "metal"},
        {"flash": False}, {"backend": "another"},
    ]  # fmt: skip
    for other in others:
        shape = {"ctx": 4096, "slots": 2} | other
        assert known.memory_needed(**shape) == MODEL.memory_needed(**shape)
    assert not known.with_weights(GIB // 2).measured


def test_a_smaller_quantisation_is_named_when_it_would_fit():
    """8 billion weights: 8 GiB in Q8_0, and in 4-bit form 4.5 GiB with all that belongs to it."""
    large = msgspec.structs.replace(
        MODEL, weights_bytes=8 * GIB, parameters=8_000_000_000, quant="Q8_0"
    )
    named = quant_that_fits(large, Spread(), ctx=4096, slots=1, free=6 * GIB)
    assert named is not None
    name, need = named
    assert name == "Q4_K_M"
    assert 5 * GIB < need <= 6 * GIB
    said = ways_out(large, Spread(), ctx=4096, slots=1, free=6 * GIB)
    assert said == f"Use a smaller quantisation: Q4_K_M would need about {need / GIB:.1f} GiB."
    assert quant_that_fits(large, Spread(), ctx=4096, slots=1, free=GIB) is None
    unknown = msgspec.structs.replace(large, parameters=None)
    assert quant_that_fits(unknown, Spread(), ctx=4096, slots=1, free=6 * GIB) is None


def test_a_place_that_was_not_named_is_proposed():
    made = colony(1.0)
    roomy = capabilities(device("cpu", free_gib=20), device("cuda:0", free_gib=1))
    joined = HiveJoined("away", "http", "http://away", roomy)
    list(made.handle(joined, now=1.0, utc=1e9))
    _, errors = places(Wish(model=MODEL, ctx=4096, slots=1, hive="home", anywhere=True), made.fleet)
    assert "Start it on away cpu, which has 20.0 GiB free." in errors[-1].action
    _, errors = places(
        Wish(model=MODEL, ctx=4096, slots=1, device="cuda:0", anywhere=True), made.fleet
    )
    (tight,) = [e for e in errors if isinstance(e, InsufficientVram)]
    assert "Start it on away cpu" in tight.action
    (place, *_), _ = places(Wish(model=MODEL, ctx=4096, slots=1, anywhere=True), made.fleet)
    assert place.hive.name == "away"


def test_a_gpus_memory_is_not_told_by_the_processes():
    """What the process has of main memory says nothing of the card."""
    made = colony(16, kind="cuda:0")
    (place,), _ = places(Wish(model=MODEL, ctx=4096, slots=1, anywhere=True), made.fleet)
    list(made.handle(JobSubmitted(job("j-1")), now=2.0, utc=1e9))
    (worker,) = made.fleet.workers.values()
    worker.rss_bytes = 5 * GIB
    hive, card = place.hive, place.device
    assert worker.held_bytes == 0
    assert made.fleet.free_memory(hive, card) == card.memory_free - worker.need_bytes
    worker.memory_bytes = GIB  # said after the device's figures were read, which do not count it
    assert made.fleet.free_memory(hive, card) == card.memory_free - worker.need_bytes
    list(made.handle(HiveSaid("home", HiveTelemetry(devices=[card], workers=[])), now=3.0, utc=1e9))
    assert made.fleet.free_memory(hive, card) == card.memory_free - worker.need_bytes + GIB
    assert worker.held_bytes == GIB


def test_more_slots_than_the_backend_runs_are_refused_not_cut():
    good, (error,) = fitting(64, most=4, slots=5)
    assert not good
    assert isinstance(error, ValidationFailed)
    assert (error.details["field"], error.details["constraint"]) == ("slots", "<= 4")
    (place,), _ = fitting(64, most=4, slots=5, clamp=True)
    assert place.slots == 4


def test_the_settings_reach_the_worker():
    limits = Limits(max_gap_ms=50.0, prompt_cache_mb=8)
    world = World(limits=limits)
    world.colony.policy = Ect(ctx=2048, slots=5, kv_type="q8_0")
    (start,) = of(world.submit("j-1", Infer(model="tiny", prompt="x")), StartWorker)
    spec = start.spec
    assert (spec.slots, spec.ctx, spec.kv_type) == (1, 2048, "q8_0")  # this backend runs one
    assert (spec.max_gap_ms, spec.prompt_cache_mb) == (50.0, 8)


def test_a_spawn_that_names_too_many_fails_its_job():
    world = World()
    world.submit("j-1", WorkerSpawn(model="tiny", slots=2))
    assert not of(world.all, StartWorker)
    assert world.stream("j-1")[-1] == "error"


@settings(deadline=None, max_examples=200)
@given(
    free=st.integers(0, 64 * GIB),
    ctx=st.integers(64, 200_000),
    slots=st.integers(1, 64),
    kv_type=st.sampled_from(sorted(KV_BITS)),
)
def test_what_is_said_to_fit_fits_and_one_more_does_not(free, ctx, slots, kv_type):
    def need(n: int, tokens: int = ctx) -> int:
        return MODEL.memory_needed(ctx=tokens, slots=n, kv_type=kv_type)

    spread = Spread(kv_type)
    best = slots_that_fit(MODEL, spread, ctx=ctx, free=free, most=slots)
    assert best == 0 or need(best) <= free
    assert best == slots or need(best + 1) > free
    smaller = ctx_that_fits(MODEL, spread, ctx=ctx, slots=slots, free=free)
    assert smaller is None or (smaller < ctx and need(slots, smaller) <= free)
    said = ways_out(MODEL, spread, ctx=ctx, slots=slots, free=free)
    assert said is None or said.startswith("Set worker.")


def test_a_backend_that_unpacks_gguf_needs_the_unpacked_weights():
    packed = msgspec.structs.replace(model(gib=1.0), parameters=2 * GIB)
    as_it_is = need_of(packed, Spread(backend="llamacpp"), ctx=1024, slots=1)
    unpacked = need_of(packed, Spread(backend="torch"), ctx=1024, slots=1)
    assert unpacked - as_it_is >= 3 * GIB
    folder = msgspec.structs.replace(packed, format="safetensors")
    assert need_of(folder, Spread(backend="torch"), ctx=1024, slots=1) == as_it_is
