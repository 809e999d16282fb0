"""The loop that answers all requests at once, with mlx-lm's batch generator.

One thread owns the model. Each turn takes in what has come, lets waiting requests into the batch
while there are slots, and has the generator make one step: a token for each running answer and a
part of the waiting prompts. Tokens are chosen by the shared sampler, on the way of that step, so
that every backend means the same by a temperature, a penalty and a seed. What must be computed
apart has a generator of its own.
"""

from __future__ import annotations

import logging
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.generate import BatchGenerator

from rbee.backend_api import Done, Prefill
from rbee.errors import InternalError, RbeeError

from ..shared.loop import Loop
from ..shared.pace import CHUNK, LEAST, Pace
from ..shared.task import Task
from .prompts import Prompts

log = logging.getLogger("rbee.mlx")
_NO_LIMIT = 1 << 30
"""Tokens: the task says when it is enough."""
_MOST_AT_ONCE = 512
"""Tokens of a prompt in a step."""


class Run:
    """A task in a generator."""

    def __init__(self, task: Task, generator: BatchGenerator, known: int) -> None:
        self.task = task
        self.generator = generator
        self.uid = -1
        self.known = known
        """Tokens of the prompt that were there."""
        self.past = known
        self.error: RbeeError | None = None
        self.exact = True
        """Nothing else was computed beside its prompt."""
        self.raw: mx.array | None = None
        """The logits before they were made log-probabilities, where they are wanted."""

    @property
    def speaks(self) -> bool:
        """Whether its prompt is computed."""
        return self.task.speaks

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be computed for it."""
        return bool(self.task.reason) or self.error is not None


class Engine(Loop):
    """See Loop: answers with mlx-lm's batches."""

    def __init__(
        self,
        model: Any,
        *,
        device: mx.Device,
        slots: int,
        max_gap_ms: float,
        cache_bytes: int,
    ) -> None:
        super().__init__()
        self._model: Any = model
        self._device = device
        self._slots = slots
        self._pace = Pace(max_gap_ms)
        self._prompts = Prompts(cache_bytes)
        self._together: BatchGenerator | None = None
        self._stream: mx.Stream | None = None
        self._runs: dict[str, Run] = {}

    def close(self) -> None:
        """See Loop; the model is let go of."""
        super().close()
        self._prompts.close()
        self._model = None

    def _run(self) -> None:
        mx.set_default_device(self._device)
        self._stream = mx.new_stream(self._device)  # one for all: each has a thread for good
        while not self._closing:
            self._wake.clear()
            try:
                self._turn()
            except Exception:  # a defect here must not leave requests without an end
                log.exception("the engine failed")
                self._fail_all(InternalError("the mlx engine failed"))
        self._take_in()
        for task in self._tasks():
            task.reason = "cancelled"
        try:
            self._sweep(keep=False)
        except Exception:  # as above
            log.exception("the engine failed at its end")
            self._fail_all(InternalError("the mlx engine failed"))
        self._flush()
        if self._together is not None:
            self._together.close()
            self._together = None

    def _turn(self) -> None:
        """One step, or sleep."""
        self._take_in()
        self._sweep()
        self._admit()
        if self._runs:
            self._step()
            self._flush()
        else:
            self._flush()
            self._sleep()

    def _tasks(self) -> list[Task]:
        return [*(run.task for run in self._runs.values()), *self._waiting]

    # --- who runs -------------------------------------------------------------------------------

    def _admit(self) -> None:
        while self._waiting and len(self._runs) < self._slots:
            self._begin(self._waiting[0])

    def _begin(self, task: Task) -> None:
        tokens: list[int] = task.prompt.tolist()
        known, cache = self._prompts.find(task)
        generator = self._generator() if task.apart else self._shared()
        run = self._runs[task.id] = Run(task, generator, len(known))
        self._waiting.remove(task)  # in one of the two at any time: what fails has an end
        raw = task.request.repetition_penalty != 1.0
        [run.uid] = generator.insert(
            [tokens[len(known) :]],
            [_NO_LIMIT],
            caches=None if cache is None else [cache],
            all_tokens=[known],
            samplers=[lambda logprobs: self._choose(run, logprobs)],
            logits_processors=[[lambda _, logits: _noted(run, logits)]] if raw else [[]],
        )
        task.begin(len(known))
        self._made.append((task.id, Prefill(len(known), len(tokens))))

    def _shared(self) -> BatchGenerator:
        if self._together is None:
            self._together = self._generator()
        return self._together

    def _generator(self) -> BatchGenerator:
        return BatchGenerator(
            self._model,
            completion_batch_size=self._slots,
            prefill_batch_size=self._slots,
            prefill_step_size=CHUNK,
            stream=self._stream,
        )

    def _sweep(self, *, keep: bool = True) -> None:
        """Let go of what has ended."""
        for run in [run for run in self._runs.values() if run.ended]:
            self._leave(run, keep=keep and run.error is None and run.speaks)
            del self._runs[run.task.id]  # only now: what fails to leave has an end, too
            self._finish(run.task, run.error or run.task.done())
        for task in [task for task in self._waiting if task.reason]:
            self._waiting.remove(task)
            self._finish(task, task.done())

    def _leave(self, run: Run, *, keep: bool) -> None:
        found: dict[int, Any] = run.generator.remove([run.uid], return_prompt_caches=keep)
        if keep and run.uid in found:
            cache, tokens = found[run.uid]
            self._prompts.keep(run.task, list(tokens), cache, exact=run.exact)
        if run.task.apart:
            run.generator.close()

    def _finish(self, task: Task, last: Done | RbeeError) -> None:
        if isinstance(last, Done) and (rest := task.rest()) is not None:
            self._made.append((task.id, rest))
        self._made.append((task.id, last))
        task.close()

    def _fail_all(self, error: RbeeError) -> None:
        """Nothing that was computed can be relied upon any more."""
        self._together = None
        tasks, self._runs, self._waiting = self._tasks(), {}, []
        for task in tasks:
            self._finish(task, error)
        self._flush()

    # --- computing ------------------------------------------------------------------------------

    def _step(self) -> None:
        """One token for each running answer, and a part of the prompts."""
        runs = list(self._runs.values())
        prompts = [run for run in runs if not run.speaks]
        for run in prompts:
            run.exact = run.exact and len(runs) == 1
        if self._together is not None:
            self._together.prefill_step_size = self._portion(runs, prompts)
        past = sum(run.past for run in prompts)
        began = self.stats.begin()
        for generator in dict.fromkeys(run.generator for run in runs):
            told, _ = generator.next()
            by_uid = {run.uid: run for run in prompts if run.generator is generator}
            for response in told:
                self._advanced(by_uid[response.uid], response.progress[0])
        prompt = sum(run.past for run in prompts) - past
        answers = len(runs) - len(prompts)
        ms = self.stats.end(began, answers=answers, prompt=prompt)
        self._pace.learn(answers=answers, prompt=prompt, ms=ms)
        self._sweep()

    def _advanced(self, run: Run, done: int) -> None:
        """So much of what was not known of its prompt is computed."""
        run.past = run.known + done
        if not run.speaks:
            self._made.append((run.task.id, Prefill(run.past, len(run.task.prompt))))

    def _portion(self, runs: list[Run], prompts: list[Run]) -> int:
        """Tokens that a step takes of each prompt; always the same where numbers must be."""
        if not prompts or any(run.task.repeatable for run in prompts):
            return CHUNK
        budget = self._pace.budget(answers=len(runs) - len(prompts), room=_MOST_AT_ONCE)
        return max(LEAST, budget // len(prompts))

    def _choose(self, run: Run, logprobs: mx.array) -> mx.array:
        """The next token of an answer; what is said of it is noted at once."""
        row = logprobs if run.raw is None else run.raw
        values = np.array(row[0].astype(mx.float32))
        token = 0
        try:
            if not np.isfinite(values.max()):
                raise InternalError("the model computed no numbers; its weights may be damaged")
            token, piece = run.task.choose(values, None)
            if piece is not None:
                self._made.append((run.task.id, piece))
        except RbeeError as exc:
            run.error = exc
        return mx.array([token], dtype=mx.uint32)

    def _flush(self) -> None:
        if self._made and self._deliver is not None:
            made, self._made = self._made, []
            self._deliver(made)


def _noted(run: Run, logits: mx.array) -> mx.array:
    run.raw = logits
    return logits
