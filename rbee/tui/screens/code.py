"""Code: what decides where work goes, and what it decided lately. To be read; nothing is changed.

The policy and the decisions are read from the queen while the screen is shown, again when a job has
changed, at most once in two seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import ClassVar

import anyio
from textual.binding import BindingType
from textual.containers import Container
from textual.content import Content
from textual.widget import Widget

from rbee.client import QueenClient
from rbee.errors import NotFound, RbeeError
from rbee.protocol.decisions import Decision, PolicyInfo, Why
from rbee.tui import keymap
from rbee.tui.decision_lines import decision_lines
from rbee.tui.rows_code import COLUMNS, decision_key, policy_lines, rows
from rbee.tui.screens.listing import SHARED_KEYS, EmptyPanel, ListScreen, set_subtitle, set_title
from rbee.tui.widgets.facets import Facet, TabbedTable
from rbee.tui.widgets.lines import Line
from rbee.tui.widgets.table import Row

TABS = ("Decision", "Policy")
LATEST = 200
"""Decisions that are read."""
SETTLE_SECONDS = 0.15
PAUSE_SECONDS = 2.0


class Code(ListScreen):
    """Mode 8."""

    MODE = "code"
    HELP_SCOPES = ("code", "lists", "tabs")
    AUTO_FOCUS = "#decisions"
    BINDINGS: ClassVar[list[BindingType]] = [
        *keymap.bindings("dashboard", only=SHARED_KEYS),
        *keymap.bindings("code"),
    ]

    def body(self) -> Iterable[Widget]:
        glyphs = self.rbee.glyphs
        table = TabbedTable("Decisions", COLUMNS, glyphs=glyphs, id="decisions")
        empty = EmptyPanel(
            "Decisions",
            Content.assemble(
                ("Nothing was decided yet. Ask something in ", "$foreground"),
                ("6 Chat", "$primary bold"),
                ("; ", "$foreground"),
                ("p", "$primary bold"),
                (" tells how it is decided.", "$foreground"),
            ),
        )
        self._decisions: dict[str, Decision] = {}
        self._policy: PolicyInfo | None = None
        self._why: tuple[str, Why] | None = None
        self._trouble = ""
        self._seen: object = None
        self._any: bool | None = None
        self._asked = ""
        self._drawn: dict[str, object] = {}
        facets = {name: Facet(name) for name in TABS}
        return [Container(*self.upper(table, empty), self.inspector(facets), classes="beside code")]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that have nothing to act on are not offered."""
        if not self.is_mounted or not self.children:
            return False
        if action == "side":
            return self.table.current is not None or parameters == ("Policy",)
        return self.table.current is not None if action in ("open_row", "filter") else True

    def on_screen_suspend(self) -> None:
        super().on_screen_suspend()
        for group in ("read", "why"):
            self.workers.cancel_group(self, group)
        self._seen, self._asked = None, ""

    def show(self) -> None:
        """The decisions, and what is shown of the one under the cursor."""
        store = self.rbee.store
        jobs = tuple((job.job_id, job.state, job.attempts) for job in store.jobs.values())
        seen = (store.connected, jobs)
        if store.connected and seen != self._seen and not self._reading():
            self._seen = seen
            self.run_worker(self._read(), group="read", exclusive=True)
        self.set_out(any_rows=bool(self._decisions))
        inspector = self.query_one("#inspector")
        told = bool(self._decisions) or self._policy is not None
        if told and not inspector.size.width:
            self.call_after_refresh(self.changed)  # how wide it is is not known before
        inspector.display = told
        if bool(self._decisions) != self._any:
            self._any = bool(self._decisions)
            self.tab = "Decision" if self._any else "Policy"
        self.table.set_rows(rows(self._decisions.values(), self.table.glyphs))
        shown, all_ = len(self.table.rows), len(self._decisions)
        words = (
            f"/{self.table.needle}: {shown} of {all_}" if self.table.needle else f"{all_} latest"
        )
        set_subtitle(self.table, Content(words if all_ else ""))
        self.changed()

    def changed(self) -> None:
        """The details follow the cursor at once."""
        row = self.table.current
        job = self._decisions[row.key].job_id if row is not None else ""
        # A job that was decided about once more is asked for once more.
        asked = row.key if row is not None else ""
        if asked != self._asked and self.rbee.screen is self:
            self._asked = asked
            if job:
                self.run_worker(partial(self._read_why, job), group="why", exclusive=True)
        width = self.facet_width
        for name in self.set_out_facets(job or "Scheduler"):
            facet = self.facets[name]
            state = (row and row.key, self._why, self._policy, self._trouble, width, facet.tabs)
            if state != self._drawn.get(name):
                self._drawn[name] = state
                facet.show_lines(self._lines(name, row.key if row is not None else "", width))
        set_title(self.facets["Policy"], "Policy")
        self.offer(row and row.key)

    def crumb_of(self, row: Row) -> str:
        """The job that was decided about."""
        return row.key.partition(" ")[0]

    def action_tab(self, step: int) -> None:
        """The decision, or the policy."""
        self.turn(step)

    def action_side(self, name: str) -> None:
        """One of the two, opened."""
        self.tab = name
        if self.table.current is not None:
            self.action_open_row()
        else:
            self.add_class("-open")
            self.changed()
            self.call_after_refresh(self.facets[name].focus)

    def _reading(self) -> bool:
        return any(each.group == "read" and each.is_running for each in self.workers)

    async def _read(self) -> None:
        try:
            async with QueenClient(self.rbee.link.require().url) as client:
                self._policy = await client.policy()
                found = await client.decisions(limit=LATEST)
        except RbeeError as exc:
            self._trouble, self._seen = f"{exc.message}; it is asked again", None
        else:
            self._trouble = ""
            self._decisions = {decision_key(one): one for one in found}
        self.repaint()
        await anyio.sleep(PAUSE_SECONDS)

    async def _read_why(self, job: str) -> None:
        await anyio.sleep(SETTLE_SECONDS)
        while True:
            try:
                async with QueenClient(self.rbee.link.require().url) as client:
                    self._why = (job, await client.why(job))
                break
            except NotFound:
                found = [one for one in self._decisions.values() if one.job_id == job]
                self._why = (job, Why(job_id=job, state="", decisions=found[::-1]))
                break
            except RbeeError as exc:
                self._trouble = f"{exc.message}; it is asked again"
            self.changed()
            await anyio.sleep(PAUSE_SECONDS)
        self.changed()

    def _lines(self, name: str, key: str, width: int) -> list[Line]:
        trouble: list[Line] = [((f" {self._trouble}", "warn"),), ()] if self._trouble else []
        if name == "Policy":
            if self._policy is None:
                return trouble or [((" asking the queen", "muted"),)]
            return trouble + policy_lines(self._policy, width)
        one = self._decisions.get(key)
        if one is None:
            return trouble
        if self._why is None or self._why[0] != one.job_id:
            return [((" asking the queen", "muted"),)]
        return trouble + decision_lines(self._why[1], self.table.glyphs, width)
