"""A conversation as values: its questions, every answer each has got, and what the model is told.

Owns the form in which it is kept, and the way there and back. Pure; files and screens are others'.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rbee.errors import RbeeError
from rbee.narration import printable
from rbee.protocol.base import Wire, convert
from rbee.protocol.jobs import MetricsData
from rbee.protocol.messages import Message
from rbee.tui.answer import Answer, Phase
from rbee.tui.sampling import Sampling
from rbee.tui.thinking import clean

TITLE = 120


class About(Wire, frozen=True, kw_only=True):
    """What a list of chats shows. Times: UTC seconds."""

    title: str
    named: bool = False
    """The title is the user's, not the first question."""
    created_at: float
    changed_at: float
    revision: int = 0
    """Counts how often it was written."""


class Reply(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """One answer. `phase` is `done`, `failed`, `stopped`, or of one that was still coming."""

    model: str
    asked_at: float = 0.0
    text: str = ""
    phase: Phase = Phase.DONE
    job_id: str | None = None
    worker_id: str | None = None
    hive: str | None = None
    device: str | None = None
    tokens: int = 0
    metrics: MetricsData | None = None
    finish_reason: str | None = None
    error: dict[str, Any] | None = None
    resumes: int = 0


class Turn(Wire, frozen=True, kw_only=True):
    """A question, its answers, and which of them counts; None: two are still being compared."""

    prompt: str
    replies: list[Reply]
    chosen: int | None = 0


class Talk(Wire, frozen=True, kw_only=True):
    """A conversation on disk."""

    about: About
    model: str | None = None
    sampling: Sampling = Sampling()
    turns: list[Turn] = []


@dataclass
class Exchange:
    """A question and its answers while it is open. There is at least one."""

    prompt: str
    answers: list[Answer]
    chosen: int | None = 0

    @property
    def answer(self) -> Answer:
        """The one that counts."""
        return self.answers[0 if self.chosen is None else self.chosen]

    @property
    def shown(self) -> list[Answer]:
        """Those on screen."""
        return self.answers if self.chosen is None else [self.answer]

    @property
    def running(self) -> list[Answer]:
        """Those that are still coming."""
        return [answer for answer in self.answers if not answer.ended]

    def turn(self) -> Turn:
        """As it is kept."""
        replies = [_reply(answer.counts) for answer in self.answers]
        return Turn(prompt=self.prompt, replies=replies, chosen=self.chosen)


@dataclass
class Dialogue:
    """An open conversation. `id` names its file."""

    id: str
    created_at: float
    name: str = ""
    """The user's own title."""
    changed_at: float = 0.0
    revision: int = 0
    """The one on disk that this goes on from."""
    model: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    exchanges: list[Exchange] = field(default_factory=list[Exchange])
    awaited: bool = False
    """The queen is being asked whether its last answer went on."""

    @property
    def title(self) -> str:
        """The user's, else the first question, in one line."""
        if self.name:
            return self.name
        if not self.exchanges:
            return "new chat"
        return printable(" ".join(self.exchanges[0].prompt[: 4 * TITLE].split()))[:TITLE]

    @property
    def running(self) -> list[Answer]:
        """Answers that are still coming."""
        return [answer for exchange in self.exchanges for answer in exchange.running]

    @property
    def comparing(self) -> bool:
        """Two answers of the last question wait for one to be kept; not when both have failed."""
        if not self.exchanges or self.exchanges[-1].chosen is not None:
            return False
        return any(answer.error is None for answer in self.exchanges[-1].answers)

    def messages(self, last: Exchange) -> list[Message]:
        """What the model is told: what was answered before, without thoughts, and the question."""
        out: list[Message] = []
        for exchange in self.exchanges:
            if exchange is last:
                break
            answer = exchange.answer.counts
            if answer.phase is not Phase.FAILED and (said := answer.said()):
                out.append(Message(role="user", content=exchange.prompt))
                out.append(Message(role="assistant", content=said))
        return [*out, Message(role="user", content=last.prompt)]

    def talk(self) -> Talk:
        """As it is kept next: one revision on from the one on disk."""
        return Talk(
            about=About(
                title=self.title,
                named=bool(self.name),
                created_at=self.created_at,
                changed_at=self.changed_at,
                revision=self.revision + 1,
            ),
            model=self.model,
            sampling=self.sampling,
            turns=[exchange.turn() for exchange in self.exchanges],
        )


def dialogue(id_: str, talk: Talk) -> Dialogue:
    """An open conversation of one that was kept. What was still coming then was interrupted.

    Raises RbeeError for an answer that is named and is not there.
    """
    return Dialogue(
        id=id_,
        created_at=talk.about.created_at,
        name=talk.about.title[:TITLE] if talk.about.named else "",
        changed_at=talk.about.changed_at,
        revision=talk.about.revision,
        model=talk.model,
        sampling=talk.sampling,
        exchanges=[_exchange(turn) for turn in talk.turns],
    )


def copied(old: Dialogue, id_: str, name: str) -> Dialogue:
    """The same conversation once more, under a name and id of its own."""
    twin = dialogue(id_, old.talk())
    twin.name, twin.revision = printable(name)[:TITLE], 0
    return twin


def unite(here: Dialogue, there: Dialogue) -> bool | None:
    """Go on from what another rbee has written of a conversation, in which nothing but the answers
    to the last question is new here, if there they are of the same jobs; of each the one counts
    that says more. What is equal stays the same object here.

    True: it is to be written, there is less. False: it is not, or not yet: what is coming here has
    come there. None: they are two conversations; nothing was done.
    """
    if not here.exchanges or not there.exchanges:
        return None
    ours, theirs = here.exchanges[-1], there.exchanges[-1]
    jobs = [answer.job_id for answer in ours.answers]
    same = jobs == [answer.job_id for answer in theirs.answers] and ours.chosen == theirs.chosen
    if not same or ours.answer.job_id is None:
        return None
    answers: list[Answer] = []
    for mine, other in zip(ours.answers, theirs.answers, strict=True):
        more = len(other.body()) - len(mine.body())
        ahead = more > 0 or (more == 0 and not other.interrupted)
        if ahead and not mine.ended:
            return False
        if ahead and other.interrupted:
            return None
        answers.append(other if ahead else mine)
    new = any(one is not other for one, other in zip(answers, theirs.answers, strict=True))
    theirs.answers = answers
    for at, (mine, other) in enumerate(zip(here.exchanges, there.exchanges, strict=False)):
        if mine.turn() == other.turn():
            there.exchanges[at] = mine
    here.exchanges, here.revision = there.exchanges, there.revision
    here.name, here.changed_at = there.name, max(here.changed_at, there.changed_at)
    here.model, here.sampling = there.model, there.sampling
    return new


def _exchange(turn: Turn) -> Exchange:
    count = len(turn.replies)
    if count == 0 or not (turn.chosen is None or 0 <= turn.chosen < count):
        raise RbeeError("a question without the answer that counts")
    answers = [_answer(turn.prompt, reply) for reply in turn.replies]
    chosen = 0 if turn.chosen is None and count < 2 else turn.chosen
    return Exchange(prompt=clean(turn.prompt), answers=answers, chosen=chosen)


def _reply(answer: Answer) -> Reply:
    return Reply(
        model=answer.model,
        asked_at=answer.asked_at,
        text=answer.body(),
        phase=answer.phase,
        job_id=answer.job_id,
        worker_id=answer.worker_id,
        hive=answer.hive,
        device=answer.device,
        tokens=answer.tokens,
        metrics=answer.metrics,
        finish_reason=answer.finish_reason,
        error=None if answer.error is None else answer.error.body()["error"],
        resumes=answer.resumes,
    )


def _answer(prompt: str, reply: Reply) -> Answer:
    answer = Answer(prompt=prompt, model=printable(reply.model), asked_at=reply.asked_at)
    answer.text = [clean(reply.text)] if reply.text else []
    answer.job_id, answer.tokens = reply.job_id, reply.tokens
    answer.worker_id, answer.hive, answer.device = reply.worker_id, reply.hive, reply.device
    answer.metrics, answer.finish_reason = reply.metrics, reply.finish_reason
    answer.resumes = reply.resumes
    if reply.error is not None:
        answer.error = RbeeError.from_body({"error": convert(reply.error, dict[str, Any])})
    ended = reply.phase in (Phase.DONE, Phase.FAILED, Phase.STOPPED)
    answer.phase = reply.phase if ended else Phase.INTERRUPTED
    answer.ended_at = reply.asked_at
    return answer
