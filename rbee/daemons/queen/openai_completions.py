"""A text completion in OpenAI's words: one body at the end, or chunks as the tokens come.

Format: https://platform.openai.com/docs/api-reference/completions. Each choice is a run of its own,
`each` of them for one prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rbee.daemons.queen.openai_events import Events
from rbee.daemons.queen.openai_replies import Run, model_of, stamp, usage_of
from rbee.daemons.queen.spoken import Ended, Said, Speech, answer_of
from rbee.protocol.base import encode
from rbee.protocol.operations import Infer
from rbee.protocol.workers import TokenLogprob
from rbee.sse import encode_event


def whole(runs: Sequence[Run], *, each: int, echo: bool) -> dict[str, Any]:
    """The body of answers that have ended."""
    choices: list[dict[str, Any]] = []
    for index, run in enumerate(runs):
        answer = answer_of(run)
        choices.append(
            {
                "index": index,
                "text": (_prompt(run) if echo else "") + answer.text,
                "finish_reason": answer.reason,
                "logprobs": Logprobs().told(answer.logprobs),
            }
        )
    return {**_head(runs), "choices": choices, "usage": usage_of(runs, each=each)}


class Logprobs:
    """In the form of completions: lists beside each other, with each token's place in the text."""

    def __init__(self) -> None:
        self._at = 0

    def told(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        """The next tokens; None for none."""
        if not tokens:
            return None
        offsets: list[int] = []
        for token in tokens:
            offsets.append(self._at)
            self._at += len(token.token)
        return {
            "tokens": [token.token for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{t.token: t.logprob for t in token.top} for token in tokens],
            "text_offset": offsets,
        }


class CompletionChunks(Events):
    """The answers as server-sent events. `usage`: their counts are asked for."""

    def __init__(
        self, runs: Sequence[Run], *, each: int, echo: bool, usage: bool, late: bool = False
    ) -> None:
        super().__init__(runs, late=late)
        self._each = each
        self._echo = echo
        self._usage = usage
        self._head = _head(runs)
        self._speeches = [Speech(run) for run in runs]
        self._logprobs = [Logprobs() for _ in runs]

    def opening(self) -> bytes:
        """The prompts, when they are to be part of the answers."""
        if not self._echo:
            return b""
        return b"".join([self._chunk(n, _prompt(run)) for n, run in enumerate(self.runs)])

    def event(self, index: int, kind: str, data: bytes) -> bytes:
        """One event of one choice."""
        out = b""
        for part in self._speeches[index].parts(kind, data):
            if isinstance(part, Said):
                out += self._chunk(index, part.text, logprobs=part.logprobs)
            elif isinstance(part, Ended):
                out += self._chunk(index, "", finish=part.reason)
        return out

    def ending(self) -> bytes:
        """The counts."""
        if not self._usage:
            return b""
        usage = usage_of(self.runs, each=self._each)
        return encode_event(encode({**self._head, "choices": [], "usage": usage}))

    def _chunk(
        self,
        index: int,
        text: str,
        *,
        finish: str | None = None,
        logprobs: Sequence[TokenLogprob] = (),
    ) -> bytes:
        said = self._logprobs[index].told(logprobs)
        choice = {"index": index, "text": text, "finish_reason": finish, "logprobs": said}
        extra = {"usage": None} if self._usage else {}
        return encode_event(encode({**self._head, "choices": [choice], **extra}))


def _prompt(run: Run) -> str:
    request = run.job.request
    return (request.prompt or "") if isinstance(request, Infer) else ""


def _head(runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "id": stamp("cmpl", runs[0]),
        "object": "text_completion",
        "created": int(runs[0].job.created_at),
        "model": model_of(runs),
    }
