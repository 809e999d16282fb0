"""How many requests a worker is made to run at a time: as many as its memory allows.

Each slot has a context of its own, so memory is paid per slot; compute is shared, and more than a
few requests at once make each of them slow. Pure arithmetic.
"""

from __future__ import annotations

from rbee.protocol.hives import ModelInfo

USUAL_SLOTS = 8
"""Nobody named a number: at most so many. More cost each answer more speed than all win."""
LEAST_CTX = 512


def slots_that_fit(model: ModelInfo, *, ctx: int, kv_type: str, free: int, most: int) -> int:
    """The largest number of slots up to `most` whose memory is free; 0: not even one."""
    for slots in range(most, 0, -1):
        if model.memory_needed(ctx=ctx, slots=slots, kv_type=kv_type) <= free:
            return slots
    return 0


def ctx_that_fits(model: ModelInfo, *, ctx: int, slots: int, kv_type: str, free: int) -> int | None:
    """A smaller context, halved until it fits; None when even LEAST_CTX tokens do not."""
    smaller = ctx
    while smaller > LEAST_CTX:
        smaller = max(LEAST_CTX, smaller // 2)
        if model.memory_needed(ctx=smaller, slots=slots, kv_type=kv_type) <= free:
            return smaller
    return None


def ways_out(model: ModelInfo, *, ctx: int, slots: int, kv_type: str, free: int) -> str | None:
    """What would fit, as one sentence; None when nothing of it would."""
    ways: list[str] = []
    if fewer := slots_that_fit(model, ctx=ctx, kv_type=kv_type, free=free, most=slots - 1):
        ways.append(f"worker.slots to {fewer}")
    smaller = ctx_that_fits(model, ctx=ctx, slots=slots, kv_type=kv_type, free=free)
    if smaller is not None:
        ways.append(f"worker.ctx to {smaller}")
    packed = model.memory_needed(ctx=ctx, slots=slots, kv_type="q8_0")
    if packed <= free and kv_type in ("f16", "f32", "bf16"):
        ways.append("worker.kv_type to q8_0")
    return f"Set {', or '.join(ways)}." if ways else None
