"""How many requests a worker is made to run at a time: as many as its memory allows.

Each slot has a context of its own, so memory is paid per slot; compute is shared, and more than a
few requests at once make each of them slow. Pure arithmetic. Also what would fit where something
does not: fewer slots, a smaller context or KV type, a smaller quantisation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rbee.errors import Insufficient, InsufficientRam, InsufficientVram
from rbee.protocol.hives import ModelInfo

USUAL_SLOTS = 8
"""Nobody named a number: at most so many. More cost each answer more speed than all win."""
LEAST_CTX = 512
GIB = 1 << 30
_QUANTS = (
    ("Q8_0", 8.5), ("Q6_K", 6.56), ("Q5_K_M", 5.67), ("Q4_K_M", 4.85), ("Q3_K_M", 3.91),
    ("IQ2_M", 2.9),
)  # fmt: skip
"""Usual files of a hub's model and the bits a weight takes in them on average, scales included
(llama.cpp, tools/quantize/README.md, of an 8B model); never less than the type's own."""


@dataclass(frozen=True)
class Spread:
    """On what kind of device and how a worker keeps its contexts."""

    kv_type: str = "f16"
    kind: str = "cpu"
    flash: bool = True
    backend: str = ""
    """Whose measurements count; empty: anyone's."""


def need_of(model: ModelInfo, spread: Spread, *, ctx: int, slots: int) -> int:
    """Bytes that must be free for it, margin included."""
    return model.memory_needed(
        ctx=ctx,
        slots=slots,
        kv_type=spread.kv_type,
        device_kind=spread.kind,
        flash=spread.flash,
        backend=spread.backend,
    )


def slots_that_fit(model: ModelInfo, spread: Spread, *, ctx: int, free: int, most: int) -> int:
    """The largest number of slots up to `most` whose memory is free; 0: not even one."""
    for slots in range(most, 0, -1):
        if need_of(model, spread, ctx=ctx, slots=slots) <= free:
            return slots
    return 0


def ctx_that_fits(
    model: ModelInfo, spread: Spread, *, ctx: int, slots: int, free: int
) -> int | None:
    """A smaller context, halved until it fits; None when even LEAST_CTX tokens do not."""
    smaller = ctx
    while smaller > LEAST_CTX:
        smaller = max(LEAST_CTX, smaller // 2)
        if need_of(model, spread, ctx=smaller, slots=slots) <= free:
            return smaller
    return None


def quant_that_fits(
    model: ModelInfo, spread: Spread, *, ctx: int, slots: int, free: int
) -> tuple[str, int] | None:
    """The largest usual quantisation, smaller than this file, that would fit, and its need.

    By the number of weights and the usual bits of each; whether somebody has made it is not known.
    """
    if not model.parameters or not model.weights_bytes:
        return None
    for name, bits in _QUANTS:
        size = int(model.parameters * bits / 8)
        if size >= model.weights_bytes or name == model.quant:
            continue
        need = need_of(model.with_weights(size), spread, ctx=ctx, slots=slots)
        if need <= free:
            return name, need
    return None


def ways_out(
    model: ModelInfo, spread: Spread, *, ctx: int, slots: int, free: int, elsewhere: str = ""
) -> str | None:
    """What would fit, as one or two sentences; None when nothing of it would.

    `elsewhere`: another place that has room for it as it is.
    """
    ways: list[str] = []
    if fewer := slots_that_fit(model, spread, ctx=ctx, free=free, most=slots - 1):
        ways.append(f"worker.slots to {fewer}")
    smaller = ctx_that_fits(model, spread, ctx=ctx, slots=slots, free=free)
    if smaller is not None:
        ways.append(f"worker.ctx to {smaller}")
    if spread.kv_type in ("f16", "f32", "bf16"):
        packed = need_of(model, replace(spread, kv_type="q8_0"), ctx=ctx, slots=slots)
        if packed <= free:
            ways.append("worker.kv_type to q8_0")
    sentences = [f"Set {', or '.join(ways)}."] if ways else []
    if elsewhere:
        sentences.append(f"Or start it on {elsewhere}." if ways else f"Start it on {elsewhere}.")
    quant = quant_that_fits(model, spread, ctx=ctx, slots=slots, free=free)
    if quant is not None:
        so = "Or use" if sentences else "Use"
        name, need = quant
        sentences.append(
            f"{so} a smaller quantisation: {name} would need about {need / GIB:.1f} GiB."
        )
    return " ".join(sentences) or None


def insufficient(
    model: ModelInfo,
    spread: Spread,
    *,
    where: str,
    ctx: int,
    slots: int,
    free: int,
    elsewhere: str = "",
) -> Insufficient:
    """The refusal for a place that has too little memory: both amounts and what would fit."""
    need = need_of(model, spread, ctx=ctx, slots=slots)
    kind = InsufficientRam if spread.kind == "cpu" else InsufficientVram
    return kind(
        f"{model.id} needs {need / GIB:.1f} GiB on {where}"
        f" ({slots} × {ctx} tokens of context in {spread.kv_type}), {free / GIB:.1f} GiB is free",
        action=ways_out(model, spread, ctx=ctx, slots=slots, free=free, elsewhere=elsewhere),
        required=need,
        available=free,
    )
