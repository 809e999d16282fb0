"""What readers of job streams were told, and readers that come back after a break."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx

from rbee.sse import Decoder, ServerEvent

ENDS = frozenset({"end", "error", "cancelled"})
LIMIT = 60.0
_PAUSE = threading.Event()


class Told:
    """The events of one job, comments left out; the last may be `[DONE]`."""

    def __init__(self, events: list[ServerEvent]) -> None:
        self.events = [event for event in events if event.event != "comment"]

    @property
    def kinds(self) -> list[str]:
        return [event.event for event in self.events if event.data != "[DONE]"]

    @property
    def last_id(self) -> int:
        return max((int(event.id) for event in self.events if event.id), default=0)

    @property
    def text(self) -> str:
        return "".join(str(data["t"]) for data in self.of("token"))

    @property
    def end(self) -> str:
        """The terminal event's type."""
        (kind,) = [kind for kind in self.kinds if kind in ENDS]
        return kind

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Data of the events of a type."""
        return [json.loads(event.data) for event in self.events if event.event == kind]

    def whole(self) -> Told:
        """Fails unless nothing is missing, nothing came twice and there is exactly one end."""
        assert self.events[-1].data == "[DONE]", self.kinds[-3:]
        ids = [int(event.id or 0) for event in self.events[:-1]]
        assert ids == list(range(1, len(ids) + 1))
        assert [data["i"] for data in self.of("token")] == list(range(self.kinds.count("token")))
        assert [kind in ENDS for kind in self.kinds] == [False] * (len(ids) - 1) + [True]
        return self


def follow(
    url: str, job_id: str, *, after: int = 0, until: Callable[[Told], bool] | None = None
) -> Told:
    """Read a stream to its end, or until the condition holds."""
    decoder, events = Decoder(), list[ServerEvent]()
    headers = {"Last-Event-ID": str(after)}
    path = f"{url}/v1/jobs/{job_id}/stream"
    with httpx.stream("GET", path, headers=headers, timeout=LIMIT, trust_env=False) as reply:
        assert reply.status_code == 200, reply.read()
        for chunk in reply.iter_raw():
            events += decoder.feed(chunk)
            if until is not None and until(Told(events)):
                break
    return Told(events)


class Reader:
    """Follows a job from now on in a thread of its own; a broken stream is taken up by its id."""

    def __init__(self, url: str, job_id: str) -> None:
        self._url, self.job_id = url, job_id
        self._events: list[ServerEvent] = []
        self.breaks = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def told(self) -> Told:
        """So far."""
        return Told(list(self._events))

    def whole(self) -> Told:
        """Wait for the end; see Told.whole."""
        self._thread.join(LIMIT)
        told = self.told
        assert told.events, f"nothing of {self.job_id}"
        return told.whole()

    def _read(self) -> None:
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            decoder = Decoder()
            headers = {"Last-Event-ID": str(self.told.last_id)}
            path = f"{self._url}/v1/jobs/{self.job_id}/stream"
            try:
                with httpx.stream(
                    "GET", path, headers=headers, timeout=LIMIT, trust_env=False
                ) as reply:
                    for chunk in reply.iter_raw():
                        self._events += decoder.feed(chunk)
            except httpx.HTTPError:
                pass
            if self._events and self._events[-1].data == "[DONE]":
                return
            self.breaks += 1
            _PAUSE.wait(0.05)
