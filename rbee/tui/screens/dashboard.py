"""Dashboard: workers, devices, jobs and narration; starts and stops workers.

Reads the store; what it does to the colony goes through the app as jobs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import BindingType
from textual.containers import Center, Container, Middle, Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from rbee.protocol.workers import WorkerInfo, WorkerState
from rbee.tui import cells, keymap
from rbee.tui.glyphs import duration, gib, wall_time
from rbee.tui.look import next_graphs
from rbee.tui.rows import WORKER_COLUMNS, WorkerRows, state_word
from rbee.tui.screens.dialogs import Choice, Confirm, Details, Picker
from rbee.tui.screens.first_steps import FirstSteps
from rbee.tui.screens.listing import set_subtitle
from rbee.tui.store import Link
from rbee.tui.widgets.panels import Devices, Jobs, NarrationPanel
from rbee.tui.widgets.table import RowTable
from rbee.tui.widgets.welcome import Welcome

_MAINS = ("workers", "empty", "welcome")
_NEEDS_WORKERS = frozenset({"stop_worker", "show_worker", "open_row", "filter"})


class EmptyWorkers(Middle, can_focus=True):
    """In the place of the table while there is no worker."""


class Dashboard(FirstSteps):
    """Mode 1."""

    MODE = "dashboard"
    HELP_SCOPES = ("dashboard", "devices", "lists")
    AUTO_FOCUS = "#workers"
    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings("dashboard")

    def body(self) -> Iterable[Widget]:
        glyphs = self.rbee.glyphs
        self.table = RowTable("Workers", WORKER_COLUMNS, glyphs=glyphs, id="workers")
        empty = EmptyWorkers(
            Center(Static(self._empty_words(), id="empty-words")),
            id="empty",
            classes="panel hatched",
        )
        empty.border_title = "Workers"
        top = Vertical(self.table, empty, self.search_box(), id="top")
        return [
            Container(
                Vertical(top, Jobs(glyphs), id="left"),
                Devices(glyphs),
                NarrationPanel(),
                id="dashboard",
            ),
            Welcome(glyphs),
        ]

    def on_mount(self) -> None:
        self._offered: tuple[object, ...] = ("workers",)
        self._rows = WorkerRows()
        super().on_mount()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that have nothing to act on are not offered."""
        if not self.is_mounted:
            return False
        if (may := self.may_step(action)) is not None:
            return may
        store = self.rbee.store
        if action in _NEEDS_WORKERS:
            return bool(store.workers) or (action == "open_row" and bool(store.jobs))
        if action == "new_worker":
            return bool(store.offered_models()) and not self.first.welcomes
        return True

    def show(self) -> None:
        """Bring every panel up to date."""
        store = self.rbee.store
        welcome, panels = self.query_one(Welcome), self.query_one("#dashboard")
        lonely = self.first.welcomes
        if panels.display == lonely:
            panels.display, welcome.display = not lonely, lonely
        table, empty = self.table, self.query_one("#empty")
        table.display, empty.display = bool(store.workers), not store.workers
        self._refocus(welcome if lonely else table if store.workers else empty)
        if lonely:
            welcome.show(store, self.first)
            self.look_around_once()
            return
        now = store.clock()
        table.set_rows(self._rows.rows(store.worker_list(), table.glyphs, now))
        self._subtitle()
        self.query_one(Devices).show(store)
        self.query_one(Jobs).show(store)
        self.query_one(NarrationPanel).show(store)

    def action_new_worker(self) -> None:
        """Choose a model and start a worker for it."""
        rbee = self.rbee
        models = rbee.store.offered_models()
        if not models:
            rbee.notify(
                "This colony has no model on its disks yet.", title="No models", markup=False
            )
            return
        rbee.push_screen(Picker("Start a worker", models), self._start)

    def action_stop_worker(self) -> None:
        """Ask, then stop the selected worker."""
        worker = self._selected()
        if worker is not None:
            self.ask_stop(worker)

    def ask_stop(self, worker: WorkerInfo) -> None:
        """The confirm dialog for a worker."""
        calls = worker.slots_busy
        what = (
            f"is serving {calls} request{'s' if calls != 1 else ''}"
            if calls
            else f"is {state_word(worker.state)}"
        )
        cost = f": {calls} caller{'s' if calls != 1 else ''} get an error" if calls else " now"
        dialog = Confirm(
            f"Stop {worker.worker_id}?",
            f"{worker.model} on {worker.hive} {worker.device} {what}.",
            [Choice("k", "keep it", "keep"), Choice("s", f"stop it{cost}", "stop")],
        )

        def answered(choice: str | None) -> None:
            if choice == "stop":
                self.rbee.stop_worker(worker.worker_id)

        self.rbee.push_screen(dialog, answered)

    def action_show_worker(self) -> None:
        """The log of the selected worker."""
        worker = self._selected()
        if worker is not None:
            self.rbee.show_logs(worker.worker_id)

    def action_open_row(self) -> None:
        """The details of what has the cursor."""
        jobs = self.query_one(Jobs)
        if not jobs.has_focus:
            worker = self._selected()
            if worker is not None:
                self.rbee.push_screen(Details(worker.worker_id, self._facts(worker)))
        elif (row := jobs.current) is not None:
            self._show_job(row.key)

    def action_graph(self) -> None:
        """The next way of drawing graphs, on all screens, until rbee is left."""
        self.rbee.glyphs.become(next_graphs(self.rbee.glyphs))
        self.repaint()

    def action_follow(self) -> None:
        """Follow the narration, or stand still."""
        self.query_one(NarrationPanel).toggle_follow()

    def back(self) -> bool:
        """Leave what the welcome tells of, or the filter; True when there was one of them."""
        if self.leave_errand():
            return True
        if self.leave_filter():
            self.table.focus()
            return True
        return False

    def _start(self, model: str | None) -> None:
        if model is not None:
            self.rbee.start_worker(model)

    def _selected(self) -> WorkerInfo | None:
        row = self.table.current
        return None if row is None else self.rbee.store.workers.get(row.key)

    def _subtitle(self) -> None:
        table, store, dot = self.table, self.rbee.store, self.rbee.glyphs.dot
        counts = store.counts()
        words = [f"{counts.workers_live} live", f"{counts.workers_loading} loading"]
        if counts.workers_failed:
            words.append(f"{counts.workers_failed} failed")
        if table.needle:
            words.insert(0, f"/{table.needle}: {len(table.rows)} shown")
        if store.link is not Link.UP and store.heard_at is not None:
            words.append(f"as of {wall_time(store.heard_at)}")
        subtitle = Content(cells.safe(f" {dot} ".join(words)))
        for panel in (table, self.query_one("#empty")):
            set_subtitle(panel, subtitle)

    def _refocus(self, main: Widget) -> None:
        """Focus never stays on something that is not shown."""
        store, errand = self.rbee.store, self.first.errand
        ended = errand and (errand.stand, errand.error)
        state = (main.id, store.connected, bool(store.workers), bool(store.models),
                 len(store.hives), ended)  # fmt: skip
        if state == self._offered:
            return
        before, self._offered = self._offered[0], state
        if main.id == "empty":
            self.query_one("#empty-words", Static).update(self._empty_words())
        if main.id != before and (self.focused is None or self.focused.id in (before, *_MAINS)):
            main.focus()
        self.refresh_bindings()

    def _empty_words(self) -> Content:
        if not self.rbee.store.offered_models():
            return Content.assemble(
                ("No workers and no models yet. ", "$foreground"),
                ("4 Models", "$primary bold"),
                (" downloads one.", "$foreground"),
            )
        return Content.assemble(
            ("No workers yet. ", "$foreground"),
            ("n", "$primary bold"),
            (" starts one, or just ask something in ", "$foreground"),
            ("6 Chat", "$primary bold"),
            (".", "$foreground"),
        )

    def _facts(self, worker: WorkerInfo) -> list[tuple[str, str]]:
        now = self.rbee.store.clock()
        progress = "" if worker.progress is None else f" {worker.progress:.0%}"
        state = f"{state_word(worker.state)}{progress} {worker.stage}".strip()
        facts = [
            ("state", state),
            ("model", worker.model + (f" ({worker.quant})" if worker.quant else "")),
            ("where", f"{worker.hive} {worker.device}"),
            ("backend", worker.backend),
            (
                "slots",
                f"{worker.slots_busy} of {worker.slots_total} busy, {worker.ctx} tokens each",
            ),
            (
                "memory",
                f"{gib(worker.memory_bytes)} GiB model, {gib(worker.rss_bytes)} GiB process",
            ),
            ("process", "" if worker.pid is None else f"pid {worker.pid}, {worker.url or ''}"),
            ("up", duration(now - worker.started_at) if worker.started_at else ""),
            ("log", worker.log_path or ""),
        ]
        if worker.state is WorkerState.FAILED:
            facts.insert(1, ("error", worker.error or "no reason was given"))
        return [(name, value) for name, value in facts if value]

    def _show_job(self, job_id: str) -> None:
        job = self.rbee.store.jobs.get(job_id)
        if job is None:
            return
        facts = [
            ("state", job.state.value),
            ("operation", job.operation),
            ("model", job.model or ""),
            ("worker", f"{job.worker_id} @ {job.hive}" if job.worker_id else ""),
            ("waiting", job.waiting_for or ""),
            ("tokens", f"{job.tokens_out} written" if job.tokens_out else ""),
            ("ended", job.finish_reason or ""),
            ("error", f"{job.error_code} {job.error_message or ''}" if job.error_code else ""),
        ]
        self.rbee.push_screen(Details(job.job_id, [(n, v) for n, v in facts if v]))
