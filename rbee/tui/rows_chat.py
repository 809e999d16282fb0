"""What the chat's panel and its list of models say. Pure; layout belongs to the widgets."""

from __future__ import annotations

from collections.abc import Sequence

from rbee.protocol.workers import WorkerInfo, WorkerState
from rbee.tui.glyphs import Glyphs
from rbee.tui.rows import model_name
from rbee.tui.sampling import NUMBERS, default_words
from rbee.tui.talk import Dialogue
from rbee.tui.widgets.lines import Line

_NAME = 13


def session_facts(
    chat: Dialogue, model: str | None, against: str | None, glyphs: Glyphs, width: int
) -> list[Line]:
    """What a chat is asked with, up to the heading of the list of chats."""
    na = glyphs.na
    last = chat.exchanges[-1].answer if chat.exchanges else None
    rows = [("model", model_name(model) if model else na)]
    if against:
        rows.append(("against", model_name(against)))
    rows += [
        ("worker", f"{last.worker_id} @ {last.hive}" if last and last.worker_id else na),
        ("device", last.device if last and last.device else na),
    ]
    sampling = chat.sampling
    told = sampling.told()
    tuned: list[tuple[str, str]] = []
    for name in NUMBERS:
        if name in told or name in ("temperature", "max_tokens"):
            value = told.get(name)
            words = default_words(name) if value is None else f"{value}"
            short = "the model ends" if value is None and name == "max_tokens" else words
            tuned.append((_SHORT.get(name, name.replace("_", " ")), short))
    if sampling.stop:
        tuned.append(("stop", f"{len(sampling.stop)} texts"))
    tuned.append(("system", " ".join(sampling.system.split()) or "none"))
    lines = [_fact(name, value, 9, glyphs, width) for name, value in rows]
    lines.append(())
    lines += [_fact(name, value, _NAME, glyphs, width) for name, value in tuned]
    return [*lines, (), ((" Chats", "strong"), ("  f4", "key"))]


def loaded_note(model: str, workers: Sequence[WorkerInfo]) -> str:
    """`on mule cuda:1`, `loading on mule 63%`, or nothing: it would have to be loaded first."""
    of_it = [worker for worker in workers if worker.model == model]
    ready = [w for w in of_it if w.state in (WorkerState.IDLE, WorkerState.BUSY)]
    if ready:
        first = f"on {ready[0].hive} {ready[0].device}"
        return first if len(ready) == 1 else f"{first} and {len(ready) - 1} more"
    for worker in of_it:
        if worker.state is WorkerState.LOADING:
            percent = "" if worker.progress is None else f" {worker.progress:.0%}"
            return f"loading on {worker.hive}{percent}"
    return ""


_SHORT = {"max_tokens": "max tokens", "repetition_penalty": "repetition"}


def _fact(name: str, value: str, column: int, glyphs: Glyphs, width: int) -> Line:
    return (
        (f" {name:<{column}}", "muted"),
        (glyphs.clip(value, max(1, width - column - 1)), "text"),
    )
