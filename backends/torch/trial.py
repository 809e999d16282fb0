"""Tries a model out before it is used: does it compute in slots what it computes alone?

Owns one comparison. transformers has hundreds of architectures; most keep their past in keys and
values and take positions and masks as they are told, and those are run. One that does not would
answer nonsense without an error, so a few tokens are computed both ways: plainly as a whole, and in
slots, in parts and beside another answer. It also makes the blocks of keys and values, so that a
context that has no room fails while the model is loaded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import torch
from rbee.errors import InternalError, ModelIncompatible, ModelLoadFailed

from .context import Context
from .devices import computing, full

_LENGTH = 12
_CLOSE, _CLOSE_16 = 0.01, 0.25
"""How far logits may lie apart, as a share of their spread, in 32 and in 16 bits: both ways round
differently (measured 1e-6 and 0.03); a wrong position or mask moves them by about their spread."""


def check(network: Any, context: Context, *, vocab_size: int) -> None:
    """Raises ModelIncompatible when the two differ or the model cannot be run so, ModelLoadFailed
    when there is no room for the context, DeviceFailed."""
    length = min(_LENGTH, context.size - 1)
    tokens = np.array([(7 + 13 * place) % vocab_size for place in range(length)], np.int32)
    try:
        plain = _plainly(network, tokens)
        slotted = _in_slots(context, tokens)
    except InternalError as exc:
        if full(exc.__cause__):
            raise _no_room(context) from exc
        raise _unfit(network, exc.message) from exc
    except (TypeError, AttributeError, ValueError, LookupError) as exc:
        raise _unfit(network, f"{type(exc).__name__}: {str(exc)[:200]}") from exc
    spread = float(plain.std())
    if not np.isfinite(plain).all():
        raise ModelLoadFailed(
            "the model computes no numbers: its weights may be damaged",
            action="Fetch the model again, or verify it.",
        )
    apart = float(np.abs(plain - slotted).max())
    close = _CLOSE if network.dtype == torch.float32 else _CLOSE_16
    if not apart <= close * max(spread, 1e-6):
        raise _unfit(network, f"logits lie {apart:.3g} apart, of a spread of {spread:.3g}")


def _plainly(network: Any, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    """Logits after the last token, all computed at once without a cache."""
    with computing("to compute"):
        ids = torch.from_numpy(tokens.astype(np.int64))[None].to(network.device)
        made = network(input_ids=ids, use_cache=False)
        return made.logits[0, -1].float().cpu().numpy()


def _in_slots(context: Context, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    """The same in two parts and a last step, beside another answer where there is a slot."""
    cut, last = len(tokens) // 2, len(tokens) - 1
    batch, mine = context.batch, context.slots - 1
    batch.clear()
    batch.add_prompt(tokens[:cut], 0, mine, ends=False)
    if mine:
        batch.add_prompt(tokens[:2], 0, 0, ends=False)
    context.decode()
    batch.clear()
    batch.add_prompt(tokens[cut:last], cut, mine, ends=False)
    context.decode()
    batch.clear()
    if mine:
        batch.add_token(int(tokens[2]), 2, 0)
    row = batch.add_token(int(tokens[last]), last, mine)
    context.decode()
    found = context.logits()[row].copy()
    batch.clear()
    for sequence in range(context.slots):
        context.forget(sequence)
    return found


def _no_room(context: Context) -> ModelLoadFailed:
    return ModelLoadFailed(
        f"there is no room for {context.slots} contexts of {context.size} tokens",
        action="Set worker.ctx or worker.slots to less.",
    )


def _unfit(network: Any, why: str) -> ModelIncompatible:
    return ModelIncompatible(
        f"{type(network).__name__} cannot be run in slots: {why}",
        action="Choose a GGUF file of this model for llamacpp, or another model.",
    )
