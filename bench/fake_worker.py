"""The stand-in for workers: answers of a chosen length at a chosen pace, out of no model at all.

Speaks the worker's contract (`/v1/execute`, `/v1/cancel`) and, for proxies that know no rbee, the
same answers as OpenAI's chat completions. Each event is a write of its own, as a worker that
computes one step after another makes them. One ticker serves all answers.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from bench.fake_protocol import CHUNKED_HEAD, LAST_CHUNK, Connection, chunk, event

TEXT = "word "
PROMPT_TOKENS = 12
WHEEL = 0.02
"""Seconds: answers whose gap is longer are spread over so many places of it."""
_DONE = chunk(b"data: [DONE]\n\n")


class Asked(msgspec.Struct):
    """What of a request is read: `max_tokens` says how long the answer is."""

    request_id: str = ""
    max_tokens: int = 20
    stream: bool = True


class AskedOpenAI(msgspec.Struct):
    """The same of a chat completion."""

    max_tokens: int = 20
    stream: bool = False


class Pace(msgspec.Struct):
    """Seconds to the first token and from one to the next; a gap of 0 is one turn of the loop."""

    first: float = 0.0
    gap: float = 0.0
    hold: bool = False
    """Nothing after the first token, until a pace without it is set."""


class Words:
    """The events of one dialect, made once."""

    def __init__(self, openai: bool) -> None:
        self.openai = openai
        self._events: list[bytes] = []

    def at(self, index: int) -> bytes:
        """The event of token `index`."""
        while len(self._events) <= index:
            number = len(self._events)
            ours = {"token": TEXT, "index": number}
            said = openai_chunk({"content": TEXT}) if self.openai else ours
            self._events.append(event(said))
        return self._events[index]

    def end(self, tokens: int, finish: str) -> bytes:
        """What follows the last token."""
        if self.openai:
            return event(openai_chunk({}, finish)) + _DONE + LAST_CHUNK
        done = {"done": True, "total_tokens": tokens, "finish_reason": finish,
                "usage": usage_of(tokens)}  # fmt: skip
        return event(done) + _DONE + LAST_CHUNK


class Answer:
    """One answer on its way."""

    __slots__ = ("at", "connection", "gone", "key", "tokens", "words", "workers")

    def __init__(
        self, workers: FakeWorkers, connection: Connection, words: Words, tokens: int, key: str
    ) -> None:
        self.workers = workers
        self.connection = connection
        self.words = words
        self.tokens = tokens
        self.key = key
        self.at = 0
        self.gone = False

    def left(self) -> None:
        """See Leaver."""
        self.gone = True
        self.workers.forget(self)

    def begin(self) -> None:
        """The head and the first token leave together."""
        if not self.gone:
            self.connection.transport.write(CHUNKED_HEAD)
            self.step()

    def step(self) -> bool:
        """Write the next event; False when that was the last or nobody reads."""
        if self.gone:
            return False
        at = self.at
        if at < self.tokens:
            self.at = at + 1
            self.connection.transport.write(self.words.at(at))
            return True
        self.end("length")
        return False

    def end(self, finish: str) -> None:
        """The last events."""
        self.connection.stream = None
        self.connection.transport.write(self.words.end(self.at, finish))
        self.gone = True
        self.workers.forget(self)


class FakeWorkers:
    """So many workers behind one port; their slots are one pool of `slots`."""

    def __init__(self, slots: int, pace: Pace) -> None:
        self.slots = slots
        self.pace = pace
        self.busy = 0
        self.served = 0
        self.told = 0
        """Events that the hives have told, all together."""
        self._ours, self._theirs = Words(openai=False), Words(openai=True)
        self._by_key: dict[str, Answer] = {}
        self._held: list[Answer] = []
        self._wheel: list[list[Answer]] = []
        self._turn = 0
        self._ticking = False

    def handle(self, connection: Connection, method: str, path: str, body: bytes) -> bool:
        """Whether it was a worker's route."""
        if path == "/v1/execute":
            asked = msgspec.json.decode(body, type=Asked)
            self._answer(connection, self._ours, asked.max_tokens, asked.stream, asked.request_id)
        elif path == "/v1/chat/completions":
            other = msgspec.json.decode(body, type=AskedOpenAI)
            self._answer(connection, self._theirs, other.max_tokens, other.stream, "")
        elif path == "/v1/cancel":
            asked = msgspec.json.decode(body, type=Asked)
            found = self._by_key.get(asked.request_id)
            if found is not None:
                found.end("cancelled")
            connection.reply({}, 204)
        elif path == "/fake/pace":
            self.set(msgspec.json.decode(body, type=Pace))
            connection.reply({})
        elif path == "/fake/stats":
            connection.reply({"busy": self.busy, "served": self.served, "told": self.told})
        else:
            return False
        return True

    def set(self, pace: Pace) -> None:
        """From now on; those that were held go on."""
        self.pace = pace
        if not pace.hold:
            held, self._held = self._held, []
            for answer in held:
                self._join(answer)

    def forget(self, answer: Answer) -> None:
        """It has ended."""
        self.busy -= 1
        self.served += 1
        self._by_key.pop(answer.key, None)

    def _answer(
        self, connection: Connection, words: Words, tokens: int, stream: bool, key: str
    ) -> None:
        if self.busy >= self.slots and not words.openai:
            busy = {"code": "ALL_SLOTS_BUSY", "message": "all slots of the stand-in are busy"}
            connection.reply({"error": busy}, 503)
            return
        loop = asyncio.get_running_loop()
        self.busy += 1
        if not stream:
            loop.call_later(self.pace.first, self._whole, connection, words, tokens)
            return
        answer = Answer(self, connection, words, tokens, key)
        connection.stream = answer
        if key:
            self._by_key[key] = answer
        if self.pace.first:
            loop.call_later(self.pace.first, self._begin, answer)
        else:
            self._begin(answer)

    def _whole(self, connection: Connection, words: Words, tokens: int) -> None:
        self.busy -= 1
        self.served += 1
        text = TEXT * tokens
        if not connection.transport.is_closing():
            connection.reply(
                openai_body(text, tokens)
                if words.openai
                else {"text": text, "finish_reason": "length", "usage": usage_of(tokens)}
            )

    def _begin(self, answer: Answer) -> None:
        answer.begin()
        if self.pace.hold:
            self._held.append(answer)
        else:
            self._join(answer)

    def _join(self, answer: Answer) -> None:
        if not self.pace.gap:
            asyncio.get_running_loop().call_soon(self._hurry, answer)
            return
        places = max(1, round(self.pace.gap / WHEEL))
        if len(self._wheel) != places:
            left = [one for place in self._wheel for one in place]
            self._wheel = [left[n::places] for n in range(places)]
        # One that has just begun waits a whole gap: it joins the place that was served last.
        self._wheel[self._turn % places].append(answer)
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(self.pace.gap / places, self._tick)

    def _hurry(self, answer: Answer) -> None:
        if answer.step():
            asyncio.get_running_loop().call_soon(self._hurry, answer)

    def _tick(self) -> None:
        places = len(self._wheel)
        self._turn = (self._turn + 1) % places
        place = self._wheel[self._turn]
        self._wheel[self._turn] = [answer for answer in place if answer.step()]
        if any(self._wheel):
            pause = max(self.pace.gap, 0.001) / places
            asyncio.get_running_loop().call_later(pause, self._tick)
        else:
            self._ticking = False


def usage_of(tokens: int) -> dict[str, Any]:
    """In the worker's words."""
    return {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens, "cached_tokens": 0,
            "prefill_ms": 1.0, "decode_ms": 1.0}  # fmt: skip


def openai_chunk(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    """One chunk of a streamed chat completion, as long as rbee's own."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 1,
            "model": "stand-in", "choices": [choice]}  # fmt: skip


def openai_body(text: str, tokens: int) -> dict[str, Any]:
    """A whole chat completion."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens,
             "total_tokens": PROMPT_TOKENS + tokens}  # fmt: skip
    choice = {"index": 0, "message": message, "finish_reason": "length", "logprobs": None}
    return {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion", "created": 1,
            "model": "stand-in", "choices": [choice], "usage": usage}  # fmt: skip
