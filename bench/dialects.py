"""How each server's stream is asked for and read: the request's body, and answers out of events.

Pure. The same prompt, length and sampling settings become each server's own words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.http_bytes import Event, Reply

TEMPERATURE, TOP_K, TOP_P, MIN_P = 0.7, 40, 0.95, 0.05
"""Of the sampled rows; greedy rows have temperature 0."""


@dataclass(frozen=True)
class Ask:
    """One request, before it is put in a server's words."""

    prompt: str
    max_tokens: int
    sampled: bool = False
    seed: int = 1
    chat: bool = False
    """True: the prompt is a user's message and the model's template is applied."""
    stop: tuple[str, ...] = ()
    ignore_eos: bool = True

    @property
    def temperature(self) -> float:
        """0 when greedy."""
        return TEMPERATURE if self.sampled else 0.0


@dataclass(frozen=True)
class Answer:
    """What came back. Times are those of the recording's clock."""

    times: tuple[float, ...] = ()
    """Arrival of each event that carried text."""
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    finish: str = ""
    error: str = ""


Said = tuple[bool, dict[str, Any]]
"""Whether an event carried text, and what it says for good (`tokens`, `finish`, …)."""
Reader = Callable[[dict[str, Any]], Said]


def llama_server_body(ask: Ask, **_: object) -> dict[str, Any]:
    """POST /completion"""
    return {
        "prompt": ask.prompt,
        "n_predict": ask.max_tokens,
        "stream": True,
        "cache_prompt": True,
        "ignore_eos": ask.ignore_eos,
        "stop": list(ask.stop),
        **_sampling(ask),
    }


def openai_body(ask: Ask, *, model: str, ignore_eos: bool) -> dict[str, Any]:
    """POST /v1/chat/completions or /v1/completions; `ignore_eos` where the server knows it."""
    text: dict[str, Any] = {"prompt": ask.prompt}
    if ask.chat:
        text = {"messages": [{"role": "user", "content": ask.prompt}]}
    extra: dict[str, Any] = {"ignore_eos": True} if ignore_eos and ask.ignore_eos else {}
    if ask.chat:
        extra["stream_options"] = {"include_usage": True}
    return {
        "model": model,
        **text,
        "max_tokens": ask.max_tokens,
        "stream": True,
        **_sampling(ask),
        **extra,
    }


def worker_body(ask: Ask, *, request_id: str) -> dict[str, Any]:
    """POST /v1/execute of rbee's worker."""
    text: dict[str, Any] = {"prompt": ask.prompt}
    if ask.chat:
        text = {"messages": [{"role": "user", "content": ask.prompt}]}
    return {
        "request_id": request_id,
        **text,
        "max_tokens": ask.max_tokens,
        "ignore_eos": ask.ignore_eos,
        "stop": list(ask.stop),
        **_sampling(ask),
    }


def _sampling(ask: Ask) -> dict[str, Any]:
    """A seed only where there is a draw: rbee takes one as the wish for repeatable portions."""
    drawn = {"seed": ask.seed} if ask.temperature > 0 else {}
    return {
        "temperature": ask.temperature,
        "top_k": TOP_K,
        "top_p": TOP_P,
        "min_p": MIN_P,
        **drawn,
    }


def read_llama_server(event: dict[str, Any]) -> Said:
    """`{content, stop}`, the last with counts and timings."""
    facts: dict[str, Any] = {}
    if event.get("stop"):
        timings = event.get("timings") or {}
        facts = {
            "tokens": event.get("tokens_predicted", 0),
            "prompt_tokens": event.get("tokens_evaluated", 0),
            "cached_tokens": timings.get("cache_n", 0),
            "finish": "length" if event.get("stop_type") == "limit" else "stop",
        }
    return bool(event.get("content")), facts


def read_worker(event: dict[str, Any]) -> Said:
    """`{token, index}`, the last `{done, total_tokens, finish_reason, usage}`."""
    facts: dict[str, Any] = {}
    if event.get("done"):
        usage = event.get("usage") or {}
        facts = {
            "tokens": event.get("total_tokens", 0),
            "prompt_tokens": usage.get("prompt_tokens", 0),
            "cached_tokens": usage.get("cached_tokens", 0),
            "finish": event.get("finish_reason", ""),
        }
    return bool(event.get("token")), facts


def read_openai(event: dict[str, Any]) -> Said:
    """`{choices: [{delta: {content}}]}` or `{choices: [{text}]}`, `usage` where it is sent."""
    facts: dict[str, Any] = {}
    carries = False
    for choice in event.get("choices") or ():
        carries = bool(choice.get("text") or (choice.get("delta") or {}).get("content"))
        if choice.get("finish_reason"):
            facts["finish"] = choice["finish_reason"]
    if usage := event.get("usage"):
        facts["tokens"] = usage.get("completion_tokens", 0)
        facts["prompt_tokens"] = usage.get("prompt_tokens", 0)
        details = usage.get("prompt_tokens_details") or {}
        facts["cached_tokens"] = details.get("cached_tokens", 0)
    return carries, facts


def read_answer(reply: Reply, reader: Reader) -> Answer:
    """The answer in a reply. Without a count by the server, each event with text is one token."""
    if reply.status != 200:
        text = reply.body.decode("utf-8", "replace").strip()
        return Answer(error=f"status {reply.status}: {text[:300]}")
    facts: dict[str, Any] = {}
    times: list[float] = []
    for event in reply.events:
        if event.data == b"[DONE]":
            continue
        value = _json(event)
        if error := value.get("error"):
            return Answer(times=tuple(times), error=json.dumps(error)[:300])
        carries, said = reader(value)
        if carries:
            times.append(event.at)
        facts |= said
    facts.setdefault("tokens", len(times))
    error = "" if facts.get("finish") else "the stream ended without saying how"
    return Answer(times=tuple(times), error=error, **facts)


def failures(answers: Sequence[Answer]) -> list[str]:
    """What went wrong, without repetition; an answer without any text is wrong too."""
    said = [a.error or ("" if a.times else "no token came") for a in answers]
    return sorted({text for text in said if text})


def _json(event: Event) -> dict[str, Any]:
    try:
        value = json.loads(event.data)
    except ValueError:
        return {"error": f"no JSON: {event.data[:80]!r}"}
    return value if isinstance(value, dict) else {"error": f"no object: {event.data[:80]!r}"}
