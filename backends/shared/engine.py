"""The loop that answers all requests at once.

One thread owns the context. Each turn of the loop takes in what has come, gives free slots to
waiting requests, computes one step for all (one token per running answer, and as much of the
waiting prompts as the pace allows) and hands what was made over in one call. Without work the
thread sleeps. Requests come and go between steps only, so a cancel takes effect within one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np

from rbee.backend_api import Done, Prefill
from rbee.errors import DeviceFailed, InternalError, RbeeError

from .context import Context, KvFull
from .loop import Loop
from .pace import CHUNK, Pace, shares, whole_tiles
from .prefixes import Prefixes
from .slots import Phase, Slot, Slots
from .task import Task

log = logging.getLogger("rbee.engine")
_MERGE_SECONDS = 0.012
"""Hand-overs of running answers within this time are made together: a screen shows no difference,
and at 300 steps a second each one costs the event loop more than the tokens in it."""


class Engine(Loop):
    """See Loop: answers in the slots of a context."""

    def __init__(
        self,
        context: Context,
        *,
        name: str,
        max_gap_ms: float,
        cache_bytes: int,
        on_device: bool,
    ) -> None:
        """`name`: the library's, for the words of errors."""
        super().__init__()
        self._name = name
        self._context = context
        self._slots = Slots.of(context.slots, context.size, adjacent=context.adjacent)
        self._prefixes = Prefixes(context, self._slots, capacity=cache_bytes, on_device=on_device)
        self._pace = Pace(max_gap_ms)
        self._urgent = False
        self._flushed = 0.0
        self._taken = 0

    def close(self) -> None:
        """See Loop."""
        super().close()
        self._prefixes.close()

    def _run(self) -> None:
        while not self._closing:
            self._wake.clear()
            try:
                self._turn()
            except Exception as exc:  # a defect here must not leave requests without an end
                log.exception("the engine failed")
                broken = isinstance(exc, DeviceFailed)
                error = exc if broken else InternalError(f"the {self._name} engine failed")
                self._fail_all(error)
                while self._waiting:
                    self._finish(self._waiting.pop(0), error)
                self._flush()
        self._take_in()
        for task in self._tasks():
            task.reason = "cancelled"
        self._sweep()
        self._flush()

    def _turn(self) -> None:
        """One step, or sleep."""
        self._take_in()
        self._sweep()
        self._admit()
        if self._slots.active():
            self._step()
            self._flush(unless_recent=True)
        else:
            self._flush()
            self._sleep()

    # --- who runs -------------------------------------------------------------------------------

    def _tasks(self) -> list[Task]:
        running = [slot.task for slot in self._slots if slot.task is not None]
        return [*running, *self._waiting]

    def _sweep(self) -> None:
        """Let go of what has ended."""
        for slot in self._slots:
            if slot.task is not None and slot.task.reason:
                self._end(slot, slot.task.done())
        for task in [task for task in self._waiting if task.reason]:
            self._waiting.remove(task)
            self._finish(task, task.done())

    def _admit(self) -> None:
        """Slots for those who wait, in their order; who gains by waiting for another's prompt
        lets others pass."""
        for task in list(self._waiting):
            if not self._slots.free():
                break
            if self._prefixes.coming(task):
                continue
            self._begin(self._slots.place(task.prompt), task)
            self._waiting.remove(task)
        move = self._slots.to_move()
        if move is not None:
            self._prefixes.move(*move)
            self.stats.moves += 1

    def _begin(self, slot: Slot, task: Task) -> None:
        self._taken += 1
        slot.used = self._taken
        cached = self._prefixes.give(slot, task)
        task.begin(cached)
        slot.goal = len(task.prompt)
        slot.tokens[: slot.goal] = task.prompt
        slot.task, slot.phase = task, Phase.PREFILL

    def _end(self, slot: Slot, last: Done | RbeeError) -> None:
        assert slot.task is not None
        task, slot.task, slot.phase = slot.task, None, Phase.FREE
        slot.goal = slot.past
        self._finish(task, last)

    def _finish(self, task: Task, last: Done | RbeeError) -> None:
        if isinstance(last, Done) and (rest := task.rest()) is not None:
            self._made.append((task.id, rest))
        self._made.append((task.id, last))
        self._urgent = True
        task.close()

    def _fail_all(self, error: RbeeError) -> None:
        """Nothing in the KV cache can be relied upon any more."""
        for slot in self._slots:
            if slot.task is not None:
                self._end(slot, error)
            self._prefixes.drop(slot)

    # --- computing ------------------------------------------------------------------------------

    def _step(self) -> None:
        """One token for each running answer; what is to be computed apart is so, one by one."""
        active = self._slots.active()
        together = [slot for slot in active if not slot.alone]
        groups = [together] if together else []
        groups += [[slot] for slot in active if slot.alone]
        for group in groups:
            if group[0].task is not None:  # a group that failed has ended all
                self._compute(group)
        for slot in active:
            if slot.task is not None and slot.phase is Phase.PREFILL:
                self._made.append((slot.task.id, Prefill(slot.past, slot.goal)))
        self._sweep()

    def _compute(self, group: Sequence[Slot]) -> None:
        """One decode for some slots; a full KV cache costs idle prefixes first, then the youngest
        of the group."""
        rest = list(group)
        while rest:
            rows, portions = self._fill(rest)
            began = self.stats.begin()
            try:
                self._context.decode()
            except KvFull:
                if not self._prefixes.drop_idle():
                    rest.remove(youngest := max(rest, key=lambda slot: slot.used))
                    self._end(youngest, InternalError("the KV cache is full; ask again later"))
                    self._prefixes.drop(youngest)
                continue
            except InternalError as exc:
                self._fail_all(exc)
                return
            prompt = sum(portions.values())
            ms = self.stats.end(began, answers=len(rest) - len(portions), prompt=prompt)
            self._pace.learn(answers=len(rest) - len(portions), prompt=prompt, ms=ms)
            self._advance(rest, portions)
            self._sample(rows)
            return

    def _fill(self, group: Sequence[Slot]) -> tuple[dict[int, Slot], dict[int, int]]:
        """The batch, in the order of sequences: row → slot, and sequence → tokens of its prompt."""
        batch = self._context.batch
        batch.clear()
        portions = self._portions(group, batch.limit)
        rows: dict[int, Slot] = {}
        for slot in group:
            if slot.phase is Phase.DECODE:
                slot.tokens[slot.past] = slot.last
                rows[batch.add_token(slot.last, slot.past, slot.number)] = slot
            elif count := portions.get(slot.number, 0):
                end = slot.past + count
                part = slot.tokens[slot.past : end]
                row = batch.add_prompt(part, slot.past, slot.number, ends=end == slot.goal)
                if row >= 0:
                    rows[row] = slot
        return rows, portions

    def _portions(self, group: Sequence[Slot], limit: int) -> dict[int, int]:
        """Sequence → how much of its prompt the step takes."""
        prompts = [slot for slot in group if slot.phase is Phase.PREFILL]
        if not prompts:
            return {}
        prompts.sort(key=lambda slot: slot.used)
        left = [slot.task.portion(slot.past) for slot in prompts if slot.task is not None]
        first = prompts[0].task
        if len(group) == 1 and first is not None and first.repeatable:
            return {group[0].number: left[0]}  # never less: the portions must not depend on time
        answers = sum(1 for slot in self._slots if slot.phase is Phase.DECODE)
        room = limit - (len(group) - len(prompts))
        given = shares(left, self._pace.budget(answers=answers, room=room))
        if len(given) == 1:
            given = [whole_tiles(given[0], left=left[0], answers=answers)]
        pairs = zip(prompts, given, strict=True)
        return {slot.number: count for slot, count in pairs if count}

    def _advance(self, group: Sequence[Slot], portions: dict[int, int]) -> None:
        for slot in group:
            if slot.phase is Phase.DECODE:
                slot.past += 1
            elif count := portions.get(slot.number, 0):
                by_itself = len(group) == 1 and slot.task is not None and slot.task.repeatable
                if by_itself and slot.exact == slot.past and count == CHUNK:
                    slot.exact += CHUNK
                slot.past += count

    def _sample(self, rows: dict[int, Slot]) -> None:
        if not rows:
            return
        logits = self._context.logits()
        quick = any(slot.task is not None and slot.task.sampler.greedy for slot in rows.values())
        best = logits.argmax(axis=1).tolist() if quick else []
        for row, slot in rows.items():
            task = slot.task
            assert task is not None
            try:
                known = best[row] if quick else None
                if known is not None and not np.isfinite(logits[row, known]):
                    raise InternalError("the model computed no numbers; its weights may be damaged")
                first = not task.speaks
                slot.last, piece = task.choose(logits[row], known)
            except RbeeError as exc:
                self._end(slot, exc)
                continue
            slot.phase = Phase.DECODE
            if piece is not None:
                self._made.append((task.id, piece))
                self._urgent = self._urgent or first

    def _flush(self, *, unless_recent: bool = False) -> None:
        """Hand over what was made; first tokens and ends at once."""
        if not self._made:
            return
        now = time.monotonic()
        if unless_recent and not self._urgent and now - self._flushed < _MERGE_SECONDS:
            return
        made, self._made = self._made, []
        self._urgent, self._flushed = False, now
        assert self._deliver is not None
        self._deliver(made)
