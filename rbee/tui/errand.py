"""An operation on a machine as its job's stream tells it: steps done, under way and ahead.

Pure: it is given the events of the stream and the time, and asks nobody. How it looks is
`rows_errand`'s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rbee.errors import RbeeError
from rbee.narration import printable
from rbee.protocol.base import builtins, decode
from rbee.protocol.jobs import CancelledData, ErrorData, EventType, JobInfo, StatusData
from rbee.sse import ServerEvent

MOST_STEPS = 80
MOST_NOTES = 20
LONGEST = 300
"""Characters of one text."""
_NUMBERED = re.compile(r"step (\d{1,4}) of (\d{1,4}): (.*?)(?: \((\d+ of \d+ MiB)\))?")
_TITLES = {
    "connecting": "connect",
    "looking": "look at the machine",
    "trusting": "trust its host key",
    "preparing": "make the packages ready",
    "draining": "let what runs there end",
    "starting": "start its hive",
    "stopping": "stop its hive",
    "removing": "take rbee off",
    "waking": "wake it",
    "going back": "go back to the version before",
    "downloading": "fetch the model",
    "verifying": "check what came",
    "loading": "load the model",
    "waiting": "wait for room",
}
_AHEAD = {
    "hive_install": ("looking", "preparing", "installing", "starting"),
    "hive_upgrade": ("looking", "preparing", "installing", "starting"),
    "hive_add": ("connecting", "looking"),
}
_VERBS = {
    "hive_add": ("adding", "added"),
    "hive_install": ("installing", "installed"),
    "hive_upgrade": ("upgrading", "upgraded"),
    "hive_uninstall": ("uninstalling", "uninstalled"),
    "hive_start": ("starting", "started"),
    "hive_stop": ("stopping", "stopped"),
    "hive_restart": ("restarting", "restarted"),
    "hive_refresh": ("reaching", "reached"),
    "hive_remove": ("removing", "removed"),
    "hive_wake": ("waking", "awake"),
    "hive_check": ("checking", "checked"),
    "model_download": ("fetching", "fetched"),
    "worker_spawn": ("starting", "started"),
}


class Stand(StrEnum):
    """How far a step or the whole is."""

    AHEAD = "ahead"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass
class Step:
    """`message`: what was last said of it; `progress`: 0..1; `seconds`: how long it took."""

    title: str
    stand: Stand = Stand.RUNNING
    message: str = ""
    figures: str = ""
    progress: float | None = None
    began: float | None = None
    seconds: float | None = None


@dataclass
class Errand:
    """One job. `fresh`: it was followed from its beginning, so that times mean something."""

    job_id: str
    operation: str
    hive: str
    fresh: bool = True
    steps: list[Step] = field(default_factory=list[Step])
    ahead: list[str] = field(default_factory=list[str])
    """Titles of what is to come, as far as is known."""
    notes: list[str] = field(default_factory=list[str])
    stand: Stand = Stand.RUNNING
    error: RbeeError | None = None
    result: dict[str, Any] = field(default_factory=dict[str, Any])
    last_id: int = 0
    dismissed: bool = False
    _stage: str = ""

    @property
    def verb(self) -> str:
        """`installing`, or `installed` when that is done."""
        going, done = _VERBS.get(self.operation, (self.operation, f"{self.operation} done"))
        return done if self.stand is Stand.DONE else going

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.stand is not Stand.RUNNING

    @property
    def awaits_key(self) -> str | None:
        """The fingerprint that somebody must look at before it can go on."""
        if self.error is None or self.error.code != "HOST_KEY_UNKNOWN":
            return None
        shown = self.error.details.get("fingerprint")
        return _clean(shown) if shown else None

    def apply(self, event: ServerEvent, now: float) -> None:
        """Take in one event of the stream. `now`: UTC seconds."""
        if event.id is not None and event.id.isdigit():
            if int(event.id) <= self.last_id:
                return
            self.last_id = int(event.id)
        match event.event:
            case EventType.STATUS:
                self._status(decode(event.data, StatusData), now)
            case EventType.RESULT:
                self.result = decode(event.data, dict[str, Any])
            case EventType.END:
                self._end(Stand.DONE, now)
            case EventType.ERROR:
                error = decode(event.data, ErrorData)
                self.error = RbeeError.from_body({"error": builtins(error)})
                self._end(Stand.FAILED, now)
            case EventType.CANCELLED:
                decode(event.data, CancelledData)
                self._end(Stand.CANCELLED, now)
            case _:
                pass

    def refused(self, error: RbeeError, now: float) -> None:
        """The queen did not take it."""
        self.error = error
        self._end(Stand.FAILED, now)

    def closed(self, job: JobInfo, now: float) -> None:
        """The queen's last word where its stream is gone."""
        if job.error_code is not None:
            self.error = RbeeError.from_body(
                {"error": {"code": job.error_code, "message": job.error_message, "details": {}}}
            )
        self._end({"completed": Stand.DONE, "failed": Stand.FAILED}.get(job.state, Stand.CANCELLED),
                  now)  # fmt: skip

    def _status(self, said: StatusData, now: float) -> None:
        message = _clean(said.message)
        if said.stage == "planning":
            if message not in self.notes and len(self.notes) < MOST_NOTES:
                self.notes.append(message)
            return
        title, figures, progress = _TITLES.get(said.stage, message), "", said.progress
        further = 0
        if numbered := _NUMBERED.fullmatch(message):
            number, total = int(numbered[1]), int(numbered[2])
            title, figures, further = numbered[3], numbered[4] or "", max(0, total - number)
            progress = (progress or 0.0) * total - (number - 1) if figures else None
        if not self.steps or self.steps[-1].title != title:
            self._close(Stand.DONE, now)
            self.steps.append(Step(title, began=now))
            del self.steps[:-MOST_STEPS]
        step = self.steps[-1]
        step.message = "" if numbered or message == title else message
        step.figures, step.progress = figures, progress
        self._stage = said.stage
        self._look_ahead(further)

    def _look_ahead(self, further: int) -> None:
        phases = _AHEAD.get(self.operation, ())
        later = phases[phases.index(self._stage) + 1 :] if self._stage in phases else ()
        steps = [] if not further else [f"{further} more step{'s'[: further != 1]}"]
        self.ahead = steps + [_TITLES.get(phase, "install") for phase in later]

    def _close(self, stand: Stand, now: float) -> None:
        if not self.steps or self.steps[-1].stand is not Stand.RUNNING:
            return
        step = self.steps[-1]
        step.stand = stand
        if self.fresh and step.began is not None:
            step.seconds = max(0.0, now - step.began)

    def _end(self, stand: Stand, now: float) -> None:
        self._close(stand, now)
        self.stand = stand
        if stand is Stand.DONE:
            self.ahead = []


def _clean(text: object) -> str:
    return printable(str(text)[: 2 * LONGEST]).replace("\t", " ")[:LONGEST]
