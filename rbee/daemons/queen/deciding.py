"""Settings as the core takes them: the policy and the limits. Pure; owns the translation only."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rbee.core.limits import Limits
from rbee.core.scheduling import Ect

if TYPE_CHECKING:
    from rbee.settings import Settings


def decide_by(settings: Settings) -> tuple[Ect, Limits]:
    """The policy and the limits that the settings ask for."""
    worker = settings.worker
    limits = Limits(
        load_timeout=worker.load_timeout,
        keep_alive=worker.keep_alive,
        stale_after=worker.stale_after,
        remove_after=worker.remove_after,
        flash_attention=worker.flash_attention,
        max_gap_ms=worker.max_gap_ms,
        prompt_cache_mb=worker.prompt_cache_mb,
        attempts=settings.job.attempts,
        hive_return=settings.hive.lease,
        swap_patience=settings.queen.swap_patience,
        preempt_after=settings.queen.preempt_after,
        keep_alives={
            model: math.inf if seconds == "forever" else seconds
            for model, seconds in settings.models.keep_alive.items()
        },
        min_workers=settings.models.min_workers,
        max_workers=settings.models.max_workers,
    )
    return Ect(ctx=worker.ctx, slots=worker.slots or None, kv_type=worker.kv_type), limits
