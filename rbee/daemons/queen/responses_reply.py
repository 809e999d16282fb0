"""A response in OpenAI's words: one object at the end, or events as the tokens come.

Format: https://platform.openai.com/docs/api-reference/responses-streaming. Owns what a response
looks like while it grows; who keeps it is told when it is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from rbee.daemons.queen.openai_events import Events
from rbee.daemons.queen.openai_replies import Run, counts_of, model_of
from rbee.daemons.queen.responses_params import ResponseRequest
from rbee.daemons.queen.spoken import Ended, Part, Said, Speech
from rbee.daemons.queen.tool_calls import CallBegun, CallMore
from rbee.errors import RbeeError
from rbee.protocol.base import encode
from rbee.sse import encode_event

Event = dict[str, Any]
IN_PROGRESS, COMPLETED, INCOMPLETE, FAILED = "in_progress", "completed", "incomplete", "failed"


class Growing:
    """One response from its first token to its end. `response_id`: its own, `resp_…`."""

    def __init__(self, asked: ResponseRequest, run: Run, *, response_id: str, stored: bool) -> None:
        self.id = response_id
        self.output: list[Event] = []
        self.status = IN_PROGRESS
        self.error: RbeeError | None = None
        self._asked = asked
        self._run = run
        self._stored = stored
        self._speech = Speech(run)

    def body(self) -> dict[str, Any]:
        """The object, as far as it has come."""
        asked = self._asked
        form = asked.text.format if asked.text is not None else None
        ended = self.status in (COMPLETED, INCOMPLETE)
        choice: Any = msgspec.to_builtins(asked.tool_choice)
        error = self.error
        return {
            "id": self.id,
            "object": "response",
            "created_at": int(self._run.job.created_at),
            "status": self.status,
            "background": False,
            "error": None if error is None else _error(error),
            "incomplete_details": (
                {"reason": "max_output_tokens"} if self.status == INCOMPLETE else None
            ),
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": model_of([self._run]),
            "output": self.output,
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": asked.previous_response_id,
            "reasoning": {"effort": None, "summary": None},
            "store": self._stored,
            "temperature": 1.0 if asked.temperature is None else asked.temperature,
            "text": {"format": form or {"type": "text"}},
            "tool_choice": choice or "auto",
            "tools": msgspec.to_builtins(asked.tools or []),
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": self._usage() if ended else None,
        }

    def said(self) -> dict[str, Any]:
        """The answer as a message, for what may follow it."""
        texts = [part["text"] for item in self.output for part in item.get("content", ())]
        message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None}
        calls = [item for item in self.output if item["type"] == "function_call"]
        if calls:
            message["tool_calls"] = [
                {
                    "id": item["call_id"],
                    "type": "function",
                    "function": {"name": item["name"], "arguments": item["arguments"]},
                }
                for item in calls
            ]
        elif message["content"] is None:
            message["content"] = ""
        return message

    def grow(self, kind: str, data: bytes) -> list[Event]:
        """One event of the run: what changes."""
        out: list[Event] = []
        for part in self._speech.parts(kind, data):
            out += self._part(part)
        return out

    def fail(self, error: RbeeError) -> None:
        """Nothing more comes; what was begun stays as it is."""
        self.status, self.error = FAILED, error
        if self.output and self.output[-1]["status"] == IN_PROGRESS:
            self.output[-1]["status"] = INCOMPLETE

    def _part(self, part: Part) -> list[Event]:
        match part:
            case Said("", _):
                return []
            case Said(text, _):
                out = [] if self._open("message") else self._begin_message()
                item = self.output[-1]
                item["content"][0]["text"] += text
                return [*out, self._event("output_text.delta", content=True, delta=text)]
            case CallBegun(_, call_id, name):
                out = self._close()
                call = {
                    "type": "function_call", "id": f"fc_{self._tail(len(self.output))}",
                    "call_id": call_id, "name": name, "arguments": "", "status": IN_PROGRESS,
                }  # fmt: skip
                self.output.append(call)
                return [*out, self._item("output_item.added")]
            case CallMore(_, text):
                self.output[-1]["arguments"] += text
                return [self._event("function_call_arguments.delta", delta=text)]
            case Ended(reason):
                whole = reason != "length"
                out = self._close(COMPLETED if whole else INCOMPLETE)
                self.status = COMPLETED if whole else INCOMPLETE
                return out

    def _open(self, kind: str) -> bool:
        last = self.output[-1] if self.output else {}
        return last.get("type") == kind and last.get("status") == IN_PROGRESS

    def _begin_message(self) -> list[Event]:
        out = self._close()
        message = {
            "type": "message", "id": f"msg_{self._tail(len(self.output))}", "role": "assistant",
            "status": IN_PROGRESS, "content": [],
        }  # fmt: skip
        self.output.append(message)
        out.append(self._item("output_item.added"))
        message["content"] = [_text_part()]
        return [*out, self._event("content_part.added", content=True, part=_text_part())]

    def _close(self, status: str = COMPLETED) -> list[Event]:
        """End the item that is open."""
        out: list[Event] = []
        item = self.output[-1] if self.output else {}
        if item.get("status") != IN_PROGRESS:
            return out
        if item["type"] == "message":
            part = item["content"][0]
            out.append(
                self._event("output_text.done", content=True, text=part["text"], logprobs=[])
            )
            out.append(self._event("content_part.done", content=True, part=dict(part)))
        else:
            item["arguments"] = item["arguments"] or "{}"
            name, arguments = item["name"], item["arguments"]
            out.append(self._event("function_call_arguments.done", name=name, arguments=arguments))
        item["status"] = status
        return [*out, self._item("output_item.done")]

    def _item(self, kind: str) -> Event:
        at = len(self.output) - 1
        item = msgspec.to_builtins(self.output[at])
        return {"type": f"response.{kind}", "output_index": at, "item": item}

    def _event(self, kind: str, *, content: bool = False, **more: Any) -> Event:
        at = len(self.output) - 1
        event = {"type": f"response.{kind}", "item_id": self.output[at]["id"], "output_index": at}
        if content:
            event["content_index"] = 0
        if kind == "output_text.delta":
            event["logprobs"] = []
        return {**event, **more}

    def _tail(self, number: int) -> str:
        return f"{self.id.removeprefix('resp_')}{number:02d}"

    def _usage(self) -> dict[str, Any]:
        prompt, cached, made = counts_of([self._run])
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": made,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + made,
        }


class ResponseEvents(Events):
    """The response as server-sent events, numbered from 0. `keep`: it is complete."""

    mark = b""

    def __init__(
        self, growing: Growing, runs: Sequence[Run], keep: Callable[[], None], *, late: bool = False
    ) -> None:
        super().__init__(runs, late=late)
        self._growing = growing
        self._keep = keep
        self._number = 0

    def opening(self) -> bytes:
        """It exists, and is worked on."""
        body = self._growing.body()
        return b"".join(
            [
                self._sent({"type": f"response.{name}", "response": body})
                for name in ("created", IN_PROGRESS)
            ]
        )

    def event(self, index: int, kind: str, data: bytes) -> bytes:
        """One event of the run."""
        return b"".join([self._sent(event) for event in self._growing.grow(kind, data)])

    def ending(self) -> bytes:
        """It is complete, or as complete as its limit lets it be."""
        self._keep()
        growing = self._growing
        return self._sent({"type": f"response.{growing.status}", "response": growing.body()})

    def broken(self, error: RbeeError) -> bytes:
        """It has failed."""
        self._growing.fail(error)
        return self._sent({"type": f"response.{FAILED}", "response": self._growing.body()})

    def _sent(self, event: Event) -> bytes:
        number, self._number = self._number, self._number + 1
        return encode_event(encode({**event, "sequence_number": number}), event=event["type"])


def complete(growing: Growing, run: Run) -> None:
    """All of a run that has ended."""
    for kind, data in run.stream.events:
        growing.grow(kind, data)


def _error(error: RbeeError) -> Event:
    return {"code": error.code, "message": f"{error.message.rstrip('.')}. {error.action}"}


def _text_part() -> dict[str, Any]:
    return {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
