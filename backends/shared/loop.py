"""The side of an engine that other threads touch: what has come, and the thread that takes it in.

Owns the inbox, the wake and the thread. What a turn computes is the engine's; it takes in what came
at the beginning of each and is asked nothing in between, so nothing here is locked: deques and an
event are safe by themselves.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque

from rbee.backend_api import Deliver, Item

from .stats import Stats
from .task import Task


class Loop(ABC):
    """Answers tasks until closed. Everything is public to any thread; nothing blocks but close."""

    def __init__(self) -> None:
        self.stats = Stats()
        self._waiting: list[Task] = []
        self._made: list[tuple[str, Item]] = []
        self._closing = False
        self._wake = threading.Event()
        self._deliver: Deliver | None = None
        self._inbox: deque[Task] = deque()
        self._cancels: deque[str] = deque()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self, deliver: Deliver) -> None:
        """Begin; `deliver` is called in the engine's thread."""
        self._deliver = deliver
        self._thread.start()

    def submit(self, task: Task) -> None:
        """Answer a task as soon as there is a slot."""
        self._inbox.append(task)
        self._wake.set()

    def cancel(self, request_id: str) -> None:
        """End a task before the next step."""
        self._cancels.append(request_id)
        self._wake.set()

    def close(self) -> None:
        """End all tasks as cancelled, then the thread."""
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    @abstractmethod
    def _run(self) -> None:
        """The thread: turns until `_closing`, then the end of all tasks."""

    @abstractmethod
    def _tasks(self) -> list[Task]:
        """Those that run and those that wait."""

    def _take_in(self) -> None:
        """What has come since the last turn. A cancel that is seen has its task before it in the
        inbox, so the cancels are looked at first."""
        cancels = {self._cancels.popleft() for _ in range(len(self._cancels))}
        while self._inbox:
            self._waiting.append(self._inbox.popleft())
        for task in self._tasks() if cancels else ():
            if task.id in cancels:
                task.reason = "cancelled"

    def _sleep(self) -> None:
        """Until something comes."""
        self.stats.pause()
        if not self._closing:  # its wake may have been cleared before this turn
            self._wake.wait()
