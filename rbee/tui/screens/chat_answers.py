"""ChatAnswers: questions on their way to the queen and answers on their way to the screen.

Owns every answer that is coming: one worker of the screen each, which goes on while another screen
or conversation is shown. How a question comes about is the chat screen's part.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import anyio

from rbee.errors import RbeeError
from rbee.protocol.workers import WorkerInfo, WorkerState
from rbee.tui import asking, sampling
from rbee.tui.answer import Answer
from rbee.tui.rows import model_name
from rbee.tui.screens.chat_book import ChatBook
from rbee.tui.screens.choosing import Chooser, Offer
from rbee.tui.talk import Dialogue, Exchange
from rbee.tui.thinking import clean
from rbee.tui.widgets.conversation import Conversation
from rbee.tui.widgets.prompt import Prompt
from rbee.tui.widgets.reply import ReplyView

PULSE_SECONDS = 0.1
SAVE_SECONDS = 2.0
"""A running answer is written at least so often."""


class ChatAnswers(ChatBook):
    """Asks, streams, stops, asks again."""

    def put_question(self, chat: Dialogue, prompt: str, models: Sequence[str]) -> None:
        """Ask one model, or two to compare them."""
        now, prompt = self.now(), clean(prompt)
        answers = [Answer(prompt=prompt, model=model, asked_at=now) for model in models]
        exchange = Exchange(prompt, answers, chosen=0 if len(answers) == 1 else None)
        chat.exchanges.append(exchange)
        view = self._view_of(chat)
        if view is not None:
            view.at = None
        self._start(chat, exchange, answers)

    async def ask_again(self, chat: Dialogue, exchange: Exchange, worker: str | None) -> None:
        """One more answer to a question, of the model that gave the one that counts; those before
        are kept. What was said after that question stays in the list as a chat of its own."""
        await self.rewind(chat, exchange, "before another answer")
        old = exchange.answer
        answer = Answer(prompt=exchange.prompt, model=old.model, asked_at=self.now(), pinned=worker)
        exchange.answers.append(answer)
        exchange.chosen = len(exchange.answers) - 1
        self._start(chat, exchange, [answer])

    async def rewind(self, chat: Dialogue, last: Exchange, words: str) -> None:
        """Take away what was said after an exchange; it is kept as another chat."""
        at = next(at for at, one in enumerate(chat.exchanges) if one is last)
        if chat.exchanges[at + 1 :]:
            await self.fork(chat, words)
            del chat.exchanges[at + 1 :]

    def was_opened(self, chat: Dialogue) -> None:
        """The last answer, when it was coming as rbee ended, may have gone on without it."""
        last = chat.exchanges[-1] if chat.exchanges else None
        if last is None or last.chosen is None or not last.answer.interrupted:
            return
        if (job_id := last.answer.job_id) is not None:
            chat.awaited = True
            self.run_worker(self._taken_up(chat, last, job_id), exit_on_error=True)

    def dropped(self, chat: Dialogue) -> None:
        """What is coming in it ends, and is not drawn any more."""
        for answer in chat.running:
            self.run_worker(self._stop(answer), exit_on_error=True)
            answer.stop(self.now())

    def stop_answers(self, chat: Dialogue) -> None:
        """Have all that is coming in it end."""
        for answer in chat.running:
            self.run_worker(self._stop(answer), exit_on_error=True)

    async def choose_worker(self, chat: Dialogue, exchange: Exchange) -> None:
        """Ask on which other worker to try again, where there are several."""
        answer = exchange.answer
        others = self.others(answer)
        name = model_name(answer.model)
        if not others:
            self.rbee.notify(
                f"No other worker serves {name}. 3 Work, then n starts one.", markup=False
            )
            return
        chosen: str | None = others[0].worker_id
        if len(others) > 1:
            lines = [
                Offer(
                    one.worker_id,
                    f"{one.worker_id} on {one.hive} {one.device}",
                    f"{one.slots_busy} of {one.slots_total} slots busy",
                )
                for one in others
            ]
            chosen = await self.rbee.push_screen_wait(Chooser(f"{name}: which worker?", lines))
        if chosen is not None and not chat.running:
            await self.ask_again(chat, exchange, chosen)

    def others(self, answer: Answer) -> list[WorkerInfo]:
        """Workers that could have given an answer, and did not; the least busy one first."""
        ready = (WorkerState.IDLE, WorkerState.BUSY)
        found = [
            worker
            for worker in self.rbee.store.worker_list()
            if worker.model == answer.model
            and worker.state in ready
            and worker.worker_id != answer.worker_id
        ]
        return sorted(found, key=lambda worker: worker.slots_busy)

    def _start(self, chat: Dialogue, exchange: Exchange, answers: Sequence[Answer]) -> None:
        self.run_worker(self._answered(chat, exchange, answers), exit_on_error=True)

    async def _answered(
        self, chat: Dialogue, exchange: Exchange, answers: Sequence[Answer]
    ) -> None:
        view = self._view_of(chat)
        if view is not None:
            await view.sync(self.now())
            view.follow()
        self.touch(chat)
        self.show()
        async with anyio.create_task_group() as tasks:
            for answer in answers:
                tasks.start_soon(self._one, chat, exchange, answer)
        self.touch(chat)
        await self.save(chat, twin=False)
        if not self.query(Prompt):
            return  # the app is leaving
        if (view := self._view_of(chat)) is not None:
            await view.sync(self.now())
        failed = all(answer.error is not None for answer in exchange.answers)
        if failed and chat is self.dialogue:
            self.query_one(Prompt).give_back(exchange.prompt)
        self.show()

    async def _taken_up(self, chat: Dialogue, exchange: Exchange, job_id: str) -> None:
        """Read an answer again from its job; where that cannot be, or ends with less than was kept
        of it, that stays."""
        old, at = exchange.answer, exchange.chosen or 0
        link, clock = self.rbee.link, self.rbee.store.clock
        try:
            known = await asking.goes_on(link, job_id)
        finally:
            chat.awaited = False
        if not known or chat.id in self._deleted:
            return
        if chat.exchanges[-1] is not exchange or exchange.answer is not old:
            return

        async def count(answer: Answer, instead: Answer) -> None:
            exchange.answers[at] = answer
            if (view := self._reply(chat, instead)) is not None:
                await view.remove()
            if (chat_view := self._view_of(chat)) is not None:
                await chat_view.sync(self.now())

        async def come() -> None:
            with suppress(RbeeError):
                await asking.follow(link, answer, clock)

        answer = Answer(old.prompt, old.model, asked_at=old.asked_at, job_id=job_id, kept=old)
        await count(answer, old)
        await self._shown(chat, answer, come, every=math.inf)
        if answer.counts is answer:
            self.touch(chat)
            await self.save(chat, twin=False)
            if (view := self._view_of(chat)) is not None:
                await view.sync(self.now())
        else:
            await count(old, answer)
        self.show()

    async def _one(self, chat: Dialogue, exchange: Exchange, answer: Answer) -> None:
        link, clock = self.rbee.link, self.rbee.store.clock

        async def come() -> None:
            try:
                operation = sampling.asking(
                    answer.model, chat.messages(exchange), chat.sampling, worker_id=answer.pinned
                )
            except RbeeError as exc:
                answer.fail(exc, clock())
            else:
                await asking.ask(link, operation, answer, clock)

        await self._shown(chat, answer, come)

    async def _shown(
        self, chat: Dialogue, answer: Answer, come: Callable[[], Awaitable[None]],
        *, every: float = SAVE_SECONDS,
    ) -> None:  # fmt: skip
        over = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._drawn, chat, answer, over, every)
            await come()
            over.set()
        view = self._reply(chat, answer)
        if view is not None:
            await view.finish(self.now())

    async def _drawn(self, chat: Dialogue, answer: Answer, over: anyio.Event, every: float) -> None:
        """Draw what has come, and write it every so many seconds, until it is over."""
        written_at = anyio.current_time()
        await self.save(chat)
        while not over.is_set():
            view = self._reply(chat, answer)
            if view is not None and self.is_current:
                job = self.rbee.store.jobs.get(answer.job_id or "")
                view.waiting_for = (job.waiting_for or "") if job is not None else ""
                await view.draw(self.now())
            if anyio.current_time() - written_at > every:
                self.touch(chat)
                await self.save(chat, twin=False)
                written_at = anyio.current_time()
            with anyio.move_on_after(PULSE_SECONDS):
                await over.wait()

    async def _stop(self, answer: Answer) -> None:
        try:
            await asking.stop(self.rbee.link, answer, self.rbee.store.clock)
        except RbeeError as exc:
            self.rbee.toast(exc)

    def _view_of(self, chat: Dialogue) -> Conversation | None:
        views = (view for view in self._views if view.dialogue is chat and view.is_mounted)
        return next(views, None)

    def _reply(self, chat: Dialogue, answer: Answer) -> ReplyView | None:
        view = self._view_of(chat)
        return None if view is None else view.view_of(answer)
