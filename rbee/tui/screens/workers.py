"""Workers: every worker with its state, log, figures and shape; starts, stops, restarts, moves.

Reads the store and the log of the worker under the cursor while that is on screen; what it does to
the colony goes through the app as jobs.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import ClassVar

import anyio
import msgspec
from textual.binding import BindingType
from textual.containers import Container
from textual.content import Content
from textual.widget import Widget

from rbee.client import QueenClient
from rbee.errors import NotFound, RbeeError
from rbee.protocol.operations import WorkerDrain, WorkerStop
from rbee.protocol.workers import WorkerInfo
from rbee.tui import keymap
from rbee.tui.glyphs import wall_time
from rbee.tui.past import WorkerPast
from rbee.tui.places import PlaceView
from rbee.tui.rows import state_word
from rbee.tui.rows_workers import (
    COLUMNS,
    LIVING,
    info_lines,
    kept_rows,
    metric_lines,
    rows,
    spec_lines,
    start_command,
    wish_of,
)
from rbee.tui.screens.choosing import ask_where
from rbee.tui.screens.dialogs import Choice, Confirm, Picker
from rbee.tui.screens.listing import (
    SHARED_KEYS,
    EmptyPanel,
    ListScreen,
    set_subtitle,
)
from rbee.tui.sequences import one_after_the_other
from rbee.tui.store import Link
from rbee.tui.widgets.facets import Facet, TabbedTable, Tail
from rbee.tui.widgets.lines import Line

TABS = ("Info", "Log", "Metrics", "Args")
SETTLE_SECONDS = 0.15
"""The cursor rests for so long before a log is asked for."""
AGAIN_SECONDS = 3.0
LOG_LINES = 200
_NEEDS_LIVING = frozenset({"stop_worker", "drain_worker", "move_worker"})
_NEEDS_ONE = frozenset({"restart_worker", "show_worker", "open_row", "filter"})


class Workers(ListScreen):
    """Mode 3."""

    MODE = "workers"
    HELP_SCOPES = ("workers", "lists", "tabs")
    AUTO_FOCUS = "#workers"
    BINDINGS: ClassVar[list[BindingType]] = [
        *keymap.bindings(
            "dashboard", only=("worker.new", "worker.stop", "worker.log", *SHARED_KEYS)
        ),
        *keymap.bindings("workers"),
    ]

    def body(self) -> Iterable[Widget]:
        self._kept = kept_rows()
        table = TabbedTable("Workers", COLUMNS, glyphs=self.rbee.glyphs, many=True, id="workers")
        empty = EmptyPanel(
            "Workers",
            Content.assemble(
                ("No workers yet. ", "$foreground"),
                ("n", "$primary bold"),
                (" starts one, or just ask something in ", "$foreground"),
                ("6 Chat", "$primary bold"),
                (".", "$foreground"),
            ),
        )
        table.command_of = self._start_command
        self._log = Tail("Log")
        facets = {name: self._log if name == "Log" else Facet(name) for name in TABS}
        self._followed: str | None = None
        return [Container(*self.upper(table, empty), self.inspector(facets), classes="beside")]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that have nothing to act on are not offered."""
        if not self.is_mounted:  # the footer may ask while the screen is being built
            return False
        if action == "new_worker":
            return bool(self.rbee.store.offered_models())
        if action in _NEEDS_LIVING:
            return self._living() is not None
        return self._past() is not None if action in _NEEDS_ONE else True

    def show(self) -> None:
        """The table, and what is shown of the worker under the cursor."""
        store = self.rbee.store
        found = rows(store, self.table.glyphs, self._kept)
        self.set_out(any_rows=bool(found))
        self.table.set_rows(found)
        self._subtitle()
        self.changed()

    def changed(self) -> None:
        """The details follow the cursor at once."""
        self._inspect()
        self._sync_log()
        past = self._past()
        self.offer(past and (past.last.worker_id, past.last.state, past.gone_at))

    def on_screen_suspend(self) -> None:
        super().on_screen_suspend()
        self._sync_log(hidden=True)

    def action_tab(self, step: int) -> None:
        """The next side of the worker."""
        self.turn(step)

    def action_show_worker(self) -> None:
        """Its log; once more, with what was told about it."""
        past = self._past()
        if past is not None and self.tab == "Log" and self._log.has_focus:
            self.rbee.show_logs(past.last.worker_id)
            return
        self.tab = "Log"
        self.action_open_row()

    def action_new_worker(self) -> None:
        """Choose a model, then where it runs."""
        rbee = self.rbee
        models = {model.id: model for model in rbee.store.offered_models()}

        def picked(model_id: str | None) -> None:
            model = models.get(model_id or "")
            if model is None:
                return

            def placed(place: PlaceView | None) -> None:
                rbee.start_worker(
                    model.id,
                    hive=place.hive if place else None,
                    device=place.device if place else None,
                )

            ask_where(rbee, f"Start {model.id} where?", model, placed)

        rbee.push_screen(Picker("Start a worker", list(models.values())), picked)

    def action_stop_worker(self) -> None:
        """Ask, then stop those that are marked, or the one under the cursor."""
        workers = self._targets()
        if not workers:
            return
        calls = sum(worker.slots_busy for worker in workers)
        choices = [Choice("k", "keep it" if len(workers) == 1 else "keep them", "keep")]
        if calls:
            choices.append(Choice("d", "drain: finish what runs, then stop", "drain"))
        choices.append(Choice("s", f"stop now{_cost(calls)}", "stop"))

        def answered(choice: str | None) -> None:
            for worker in workers:
                if choice == "stop":
                    self.rbee.stop_worker(worker.worker_id)
                elif choice == "drain":
                    self._drain(worker)
            if choice in ("stop", "drain"):
                self.table.marked.clear()

        self.rbee.push_screen(Confirm(_title("Stop", workers), _about(workers), choices), answered)

    def action_drain_worker(self) -> None:
        """It takes nothing more and stops when what it runs has ended."""
        for worker in self._targets():
            if worker.draining:
                self.rbee.notify(f"{worker.worker_id} is draining already", markup=False)
            else:
                self._drain(worker)
        self.table.marked.clear()

    def action_restart_worker(self) -> None:
        """Ask, then stop it and start one like it; one that is gone is started at once."""
        past = self._past()
        if past is None:
            return
        worker, again = past.last, wish_of(past.last)
        words = f"starting {worker.model} on {worker.hive} {worker.device} again"
        if past.gone_at is not None or worker.state not in LIVING:
            self.rbee.submit(again, words)
            return
        busy, id_ = worker.slots_busy, worker.worker_id
        choices = [Choice("k", "keep it as it is", "keep")]
        if busy:
            choices.append(Choice("d", "drain: finish what runs, then restart", "drain"))
        choices.append(Choice("r", f"restart now{_cost(busy)}", "now"))

        def answered(choice: str | None) -> None:
            if choice == "drain":
                first = (WorkerDrain(worker_id=id_), f"draining {id_}")
            elif choice == "now":
                first = (WorkerStop(worker_id=id_), f"stopping {id_}")
            else:
                return
            one_after_the_other(self.rbee, first, (again, words))

        self.rbee.push_screen(Confirm(f"Restart {id_}?", _about([worker]), choices), answered)

    def action_move_worker(self) -> None:
        """Choose where, start one like it there, and drain this one when that is ready."""
        worker = self._living()
        model = next((m for m in self.rbee.store.models if worker and m.id == worker.model), None)
        if worker is None or model is None:
            return
        id_, like = worker.worker_id, wish_of(worker)

        def placed(place: PlaceView | None) -> None:
            if place is None or (place.hive, place.device) == (worker.hive, worker.device):
                return
            where = f"{place.hive} {place.device}"
            there = msgspec.structs.replace(
                like, hive=place.hive, device=place.device, backend=None
            )
            one_after_the_other(
                self.rbee,
                (there, f"starting {worker.model} on {where}"),
                (WorkerDrain(worker_id=id_), f"{where} is ready; draining {id_}"),
            )

        ask_where(self.rbee, f"Move {id_} to", model, placed, anywhere=False)

    def _start_command(self, worker_id: str) -> str:
        past = self.rbee.store.past.workers.get(worker_id)
        return "" if past is None else start_command(past.last, self.rbee.store)

    def _drain(self, worker: WorkerInfo) -> None:
        id_ = worker.worker_id
        self.rbee.submit(WorkerDrain(worker_id=id_), f"draining {id_}")

    def _past(self) -> WorkerPast | None:
        """Of the worker under the cursor."""
        row = self.table.current
        return None if row is None else self.rbee.store.past.workers.get(row.key)

    def _living(self) -> WorkerInfo | None:
        past = self._past()
        if past is None or past.gone_at is not None or past.last.state not in LIVING:
            return None
        return past.last

    def _targets(self) -> list[WorkerInfo]:
        workers = self.rbee.store.workers
        chosen = [workers[row.key] for row in self.table.chosen() if row.key in workers]
        return [worker for worker in chosen if worker.state in LIVING]

    def _inspect(self) -> None:
        """Fill the panels that are on screen."""
        past, store, glyphs = self._past(), self.rbee.store, self.table.glyphs
        for name in self.set_out_facets(past.last.worker_id if past is not None else "Worker"):
            facet, lines, width = self.facets[name], list[Line](), self.facet_width
            if name == "Log":
                self._log.draw()
                continue
            if past is not None and name == "Info":
                lines = info_lines(past, store, glyphs, width)
            elif past is not None and name == "Metrics":
                lines = metric_lines(past, glyphs, width)
            elif past is not None:
                lines = spec_lines(past, store, width)
            facet.show_lines(lines)

    def _subtitle(self) -> None:
        store, dot = self.rbee.store, self.table.glyphs.dot
        counts = store.counts()
        words = [f"{counts.workers_live} live", f"{counts.workers_loading} loading"]
        gone = len(store.past.departed())
        words += [f"{counts.workers_failed} failed"] if counts.workers_failed else []
        words += [f"{gone} gone"] if gone else []
        if self.table.needle:
            words.insert(0, f"/{self.table.needle}: {len(self.table.rows)} shown")
        if self.table.marked:
            words.insert(0, f"{len(self.table.marked)} marked")
        if self.table.sorted_by:
            words.append(f"sorted by {self.table.sorted_by}")
        if store.link is not Link.UP and store.heard_at is not None:
            words.append(f"as of {wall_time(store.heard_at)}")
        for panel in (self.table, self.query_one("#empty")):
            set_subtitle(panel, Content(f" {dot} ".join(words)))

    def _sync_log(self, *, hidden: bool = False) -> None:
        """Follow the log of the worker under the cursor while it is on screen, else none."""
        past = self._past()
        shown = not hidden and self._log.display and self.rbee.screen is self
        wanted = past.last.worker_id if past is not None and shown else None
        if wanted == self._followed:
            return
        self._followed = wanted
        self._log.clear()
        self.workers.cancel_group(self, "log")
        if wanted is not None:
            self.run_worker(partial(self._follow, wanted), group="log", exclusive=True)

    async def _follow(self, worker_id: str) -> None:
        await anyio.sleep(SETTLE_SECONDS)
        while True:
            self._log.clear()
            try:
                async with QueenClient(self.rbee.link.require().url) as client:
                    lines = client.worker_logs(worker_id, lines=LOG_LINES, follow=True)
                    async for line in lines:
                        self._log.add(line)
                self._log.add("The log ends here: what wrote it has ended.", "muted")
                return
            except NotFound as exc:
                self._log.add(f"{exc.message}: its log cannot be read here any more.", "muted")
                past = self.rbee.store.past.workers.get(worker_id)
                if past is not None and past.last.log_path:
                    where = f"{past.last.log_path} on {past.last.hive}"
                    self._log.add(f"It was written to {where}.", "muted")
                return
            except RbeeError as exc:
                self._log.add(f"{exc.message}; {exc.action}", "warn")
            await anyio.sleep(AGAIN_SECONDS)


def _cost(calls: int) -> str:
    """What stopping at once means for those who wait for an answer."""
    if not calls:
        return ""
    return f": {calls} answer{'s'[: calls > 1]} break off, or go on elsewhere"


def _title(verb: str, workers: list[WorkerInfo]) -> str:
    one = len(workers) == 1
    return f"{verb} {workers[0].worker_id}?" if one else f"{verb} {len(workers)} workers?"


def _about(workers: list[WorkerInfo]) -> str:
    if len(workers) > 1:
        names = ", ".join(worker.worker_id for worker in workers[:8])
        more = f" and {len(workers) - 8} more" if len(workers) > 8 else ""
        busy = sum(worker.slots_busy for worker in workers)
        return f"{names}{more}: {busy} request{'s'[: busy != 1]} run there."
    worker = workers[0]
    calls = worker.slots_busy
    does = f"serving {calls} request{'s'[: calls != 1]}" if calls else state_word(worker.state)
    return f"{worker.model} on {worker.hive} {worker.device} is {does}."
