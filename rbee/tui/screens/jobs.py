"""Jobs: every job with its wait, first token and speed; why it waits, what it wrote; cancel, retry.

Reads the store, and of the job under the cursor its stream and the decisions about it while the
screen is shown; earlier jobs are read from the queen when the screen comes up.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import ClassVar

import anyio
from textual.binding import BindingType
from textual.containers import Container, Vertical
from textual.content import Content
from textual.widget import Widget

from rbee.client import QueenClient
from rbee.errors import JobFinished, NotFound, RbeeError
from rbee.protocol.decisions import Why
from rbee.protocol.jobs import JobInfo, JobState
from rbee.tui import keymap
from rbee.tui.decision_lines import decision_lines
from rbee.tui.job_story import JobStory, text_lines, timeline_lines
from rbee.tui.rows_jobs import COLUMNS, REPLACEABLE, Kind, merged, rows, throughput_lines
from rbee.tui.screens.dialogs import Choice, Confirm
from rbee.tui.screens.listing import (
    SHARED_KEYS,
    EmptyPanel,
    ListScreen,
    set_subtitle,
    set_title,
)
from rbee.tui.store import ACTIVE_JOBS
from rbee.tui.widgets.facets import Facet, TabbedTable
from rbee.tui.widgets.lines import Line, Lines

TABS = ("Timeline", "Decision", "Text")
SETTLE_SECONDS = 0.15
"""The cursor rests for so long before anything is asked about a job."""
AGAIN_SECONDS = 3.0
WHY_SECONDS = 5.0
"""How often a waiting job's decision is asked for."""
EARLIER = 200
"""Jobs, and as many dead letters, that are read when the screen comes up."""
MOST = 1000
_NEEDS_ONE = frozenset({"open_row", "filter", "side"})


class Jobs(ListScreen):
    """Mode 5."""

    MODE = "jobs"
    HELP_SCOPES = ("jobs", "lists", "tabs")
    AUTO_FOCUS = "#jobs"
    BINDINGS: ClassVar[list[BindingType]] = [
        *keymap.bindings("dashboard", only=SHARED_KEYS),
        *keymap.bindings("jobs"),
    ]

    def body(self) -> Iterable[Widget]:
        table = TabbedTable("Jobs", COLUMNS, glyphs=self.rbee.glyphs, many=True, id="jobs-table")
        empty = EmptyPanel(
            "Jobs",
            Content.assemble(
                ("No jobs yet. Ask something in ", "$foreground"),
                ("6 Chat", "$primary bold"),
                (", or start a worker with ", "$foreground"),
                ("n", "$primary bold"),
                (" in ", "$foreground"),
                ("3 Work", "$primary bold"),
                (".", "$foreground"),
            ),
        )
        dot = self.rbee.glyphs.dot
        throughput = Lines(f"Throughput  tok/s {dot} queue", id="throughput")
        throughput.can_focus = False
        self.kind = Kind.ALL
        self._known: dict[str, JobInfo] = {}
        self._story: JobStory | None = None
        self._why: Why | None = None
        self._trouble = ""
        self._was_connected = False
        self._drawn: dict[str, object] = {}
        inspector = self.inspector({name: Facet(name) for name in TABS})
        left = Vertical(*self.upper(table, empty), throughput, classes="left")
        return [Container(left, inspector, classes="beside jobs")]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that have nothing to act on are not offered."""
        if not self.is_mounted:  # the footer may ask while the screen is being built
            return False
        if action == "cancel_job":
            return bool(self._targets(ACTIVE_JOBS)) or None
        if action == "retry_job":
            return bool(self._targets(REPLACEABLE)) or None
        return self.table.current is not None if action in _NEEDS_ONE else True

    def on_screen_resume(self) -> None:
        self._was_connected = False
        super().on_screen_resume()

    def on_screen_suspend(self) -> None:
        super().on_screen_suspend()
        self.workers.cancel_group(self, "job")
        self._story = None

    def show(self) -> None:
        """The table, the graphs, and what is shown of the job under the cursor."""
        store = self.rbee.store
        if store.connected and not self._was_connected:
            self._read_earlier()
        self._was_connected = store.connected
        self._remember(store.jobs.values())
        found = rows(merged(self._known, store), self.kind, self.table.glyphs, store.clock())
        self.set_out(any_rows=bool(self._known))
        self.table.nothing = f"No job here is {self.kind}."
        self.table.set_rows(found)
        self._subtitles(len(found))
        graphs = self.query_one("#throughput", Lines)
        graphs.set_lines(throughput_lines(store, self.table.glyphs, graphs.size.width))
        self.changed()

    def changed(self) -> None:
        """The details follow the cursor at once."""
        self._inspect()
        row = self.table.current
        job = self._known.get(row.key) if row is not None else None
        self.offer(job and (job.job_id, job.state))

    def action_tab(self, step: int) -> None:
        """The next kind of jobs, or the next side of the job."""
        if self.focused in self.facets.values():
            self.turn(step)
            return
        kinds = list(Kind)
        self.kind = kinds[(kinds.index(self.kind) + step) % len(kinds)]
        self.repaint()

    def action_side(self, name: str) -> None:
        """One side of the job, opened."""
        self.tab = name
        self.action_open_row()

    def action_cancel_job(self) -> None:
        """Ask, then cancel those that are marked, or the one under the cursor."""
        jobs = self._targets(ACTIVE_JOBS)
        if not jobs:
            return
        one = len(jobs) == 1
        what = f"Cancel {jobs[0].job_id}?" if one else f"Cancel {len(jobs)} jobs?"
        choices = [
            Choice("k", "keep it" if one else "keep them", "keep"),
            Choice("c", "cancel it" if one else "cancel them", "cancel"),
        ]

        def answered(choice: str | None) -> None:
            if choice == "cancel":
                self.table.marked.clear()
                self.rbee.run_worker(self._cancel(jobs), exit_on_error=True)

        self.rbee.push_screen(Confirm(what, _about(jobs), choices), answered)

    def action_retry_job(self) -> None:
        """Ask again what those asked that failed or were cancelled."""
        jobs = self._targets(REPLACEABLE)
        self.table.marked.clear()
        if jobs:
            self.rbee.run_worker(self._retry(jobs), exit_on_error=True)

    async def _cancel(self, jobs: list[JobInfo]) -> None:
        for job in jobs:
            try:
                await self.rbee.link.require().cancel(job.job_id)
            except JobFinished:
                self.rbee.notify(f"{job.job_id} has ended already", timeout=3, markup=False)
            except RbeeError as exc:
                self.rbee.toast(exc)
                return
            else:
                self.rbee.notify(f"cancelling {job.job_id}", timeout=3, markup=False)

    async def _retry(self, jobs: list[JobInfo]) -> None:
        for job in jobs:
            try:
                accepted = await self.rbee.link.require().retry(job.job_id)
            except RbeeError as exc:
                self.rbee.toast(exc)
                return
            words = f"{accepted.job_id} asks again what {job.job_id} asked"
            self.rbee.notify(words, timeout=5, markup=False)

    def _targets(self, states: frozenset[JobState]) -> list[JobInfo]:
        chosen = [self._known[row.key] for row in self.table.chosen() if row.key in self._known]
        return [job for job in chosen if job.state in states]

    def _remember(self, jobs: Iterable[JobInfo]) -> None:
        """The newest state of each; the oldest that have ended are forgotten."""
        for job in jobs:
            self._known[job.job_id] = job
        if len(self._known) > MOST:
            ended = [job for job in self._known.values() if job.state not in ACTIVE_JOBS]
            ended.sort(key=lambda job: job.created_at)
            for job in ended[: len(self._known) - MOST]:
                del self._known[job.job_id]

    def _read_earlier(self) -> None:
        if self.rbee.store.connected:
            self.run_worker(self._earlier, group="earlier", exclusive=True)

    async def _earlier(self) -> None:
        try:
            async with QueenClient(self.rbee.link.require().url) as client:
                found = await client.jobs(dead=True, limit=EARLIER)
                found += await client.jobs(limit=EARLIER)
        except RbeeError as exc:
            self._trouble = f"Earlier jobs could not be read: {exc.message}"
            return
        self._trouble = ""
        live = self.rbee.store.jobs
        self._remember(job for job in found if job.job_id not in live)
        if self.rbee.screen is self:
            self.repaint()

    def _subtitles(self, shown: int) -> None:
        glyphs = self.table.glyphs
        words: list[Content | str | tuple[str, str]] = [f"{self.tab_keys} "]
        if self.table.marked:
            words.insert(0, f"{len(self.table.marked)} marked {glyphs.dot} ")
        if self.table.needle:
            words.insert(0, f"/{self.table.needle}: {len(self.table.rows)} of {shown} ")
        for at, kind in enumerate(Kind):
            words.append(f" {glyphs.dot} " if at else " ")
            words.append((f"[{kind}]", "$primary bold") if kind is self.kind else kind.value)
        set_subtitle(self.table, Content.assemble(*words))
        set_title(self.table, "Jobs" if self.kind is Kind.ALL else f"Jobs: {self.kind}")

    def _inspect(self) -> None:
        """Fill the panels that are on screen."""
        row = self.table.current
        job = self._known.get(row.key) if row is not None else None
        self._attend(job)
        width = self.facet_width
        for name in self.set_out_facets(job.job_id if job is not None else "Job"):
            facet, story = self.facets[name], self._story
            look = (width, facet.tabs, self.table.glyphs.bar)
            state = (job, story and story.version, self._why, self._trouble, look)
            if state == self._drawn.get(name):
                continue
            self._drawn[name] = state
            follow = name == "Text" and job is not None and job.state in ACTIVE_JOBS
            facet.show_lines(self._lines(name, width), follow=follow)

    def _lines(self, name: str, width: int) -> list[Line]:
        story = self._story
        if story is None:
            return []
        if name == "Timeline":
            lines = timeline_lines(story, width)
            return [*lines, ((f" {self._trouble}", "warn"),)] if self._trouble else lines
        if name == "Text":
            return text_lines(story, width)
        if self._why is None:
            return [((" asking the queen", "muted"),)]
        return decision_lines(self._why, self.table.glyphs, width)

    def _attend(self, job: JobInfo | None) -> None:
        """Read about the job under the cursor while the screen is shown, and about no other."""
        story = self._story
        if story is not None and job is not None and story.job.job_id == job.job_id:
            story.job = job
            return
        if job is None and story is None:
            return
        self._story, self._why, self._trouble = None, None, ""
        self.workers.cancel_group(self, "job")
        for facet in self.facets.values():
            facet.scroll_to(y=0, animate=False)
        if job is not None and self.rbee.screen is self:
            self._story = JobStory(job)
            self.run_worker(partial(self._read, self._story), group="job", exclusive=True)

    async def _read(self, story: JobStory) -> None:
        await anyio.sleep(SETTLE_SECONDS)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read_why, story)
            if story.job.operation != "embed":  # its result may have hundreds of megabytes
                tasks.start_soon(self._read_story, story)

    async def _read_story(self, story: JobStory) -> None:
        """What there is, without times; then what comes, with them."""
        job_id, clock = story.job.job_id, self.rbee.store.clock
        while not story.ended:
            story.clear()
            after = 0
            try:
                async with QueenClient(self.rbee.link.require().url) as client:
                    async for event in client.job_stream(job_id, follow=False):
                        after = int(event.id) if event.id and event.id.isdigit() else after
                        story.apply(event, None)
                    self._trouble = ""
                    self._inspect()
                    if story.ended:
                        return
                    async for event in client.job_stream(job_id, after=after):
                        story.apply(event, clock())
                return
            except NotFound:
                self._trouble = "Its stream is no longer kept."
                return
            except RbeeError as exc:
                self._trouble = f"{exc.message}; it is asked again"
            await anyio.sleep(AGAIN_SECONDS)

    async def _read_why(self, story: JobStory) -> None:
        """The decisions; of a job that waits, again and again."""
        while True:
            try:
                async with QueenClient(self.rbee.link.require().url) as client:
                    self._why = why = await client.why(story.job.job_id)
                self._inspect()
                if why.state != "queued":
                    return
            except NotFound:
                self._why = Why(job_id=story.job.job_id, state="", decisions=[])
                return
            except RbeeError as exc:
                self._trouble = f"{exc.message}; it is asked again"
            await anyio.sleep(WHY_SECONDS)


def _about(jobs: list[JobInfo]) -> str:
    if len(jobs) > 1:
        names = ", ".join(job.job_id for job in jobs[:8])
        return names + (f" and {len(jobs) - 8} more." if len(jobs) > 8 else ".")
    job = jobs[0]
    said = f", {job.tokens_out} tokens so far" if job.tokens_out else ""
    about = f" of {job.model}" if job.model else ""
    whose = f" for {job.client}" if job.client else ""
    return f"{job.operation}{about}{whose} is {job.state}{said}."
