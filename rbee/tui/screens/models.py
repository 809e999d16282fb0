"""Models: what is on which machine, what fits where, what is on its way; fetch, copy, delete.

Reads the store, and while it is on screen the queen's catalogue, the forecast for the model under
the cursor and the ends of what was done with models. What it does goes through the app as jobs.
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
from rbee.errors import ConnectionTimeout, QueenUnreachable, RbeeError
from rbee.protocol.jobs import JobInfo
from rbee.protocol.models import HeldModel, Spot
from rbee.protocol.operations import ModelUnload, ModelVerify
from rbee.tui import keymap
from rbee.tui.carriage import VERBS, Carriage, Tale, carriages, unread
from rbee.tui.rows_models import Item, items
from rbee.tui.screens.filtering import FilteredScreen
from rbee.tui.screens.finding import FindModel, Wanted
from rbee.tui.screens.listing import EmptyPanel
from rbee.tui.screens.model_questions import (
    ask_cancel,
    ask_copy,
    ask_delete,
    ask_download,
    start_somewhere,
)
from rbee.tui.store import ACTIVE_JOBS
from rbee.tui.tales import tale_of
from rbee.tui.widgets.models import LibraryTable, ModelDetails, TransferTable

SETTLE_SECONDS = 0.15
"""The cursor rests, or the catalogue stands still, for so long before the queen is asked."""
AGAIN_SECONDS = 3.0
FORECAST_SECONDS = 5.0
"""How often what fits where is asked for: memory comes and goes."""
REREAD_SECONDS = 60.0
"""How old the catalogue may get while nothing is told of it: when models were last used."""
_NEEDS_ONE = frozenset({"copy_model", "remove_model", "verify_model", "start_model", "open_row"})


class Models(FilteredScreen[LibraryTable]):
    """Mode 4."""

    MODE = "models"
    HELP_SCOPES = ("models", "lists")
    AUTO_FOCUS = "#library"
    BINDINGS: ClassVar[list[BindingType]] = [
        *keymap.bindings("models"),
        *keymap.bindings("dashboard", only=("list.filter",)),
    ]

    def body(self) -> Iterable[Widget]:
        glyphs = self.rbee.glyphs
        self.table = LibraryTable(glyphs)
        self.transfers = TransferTable(glyphs)
        self.details = ModelDetails(glyphs)
        empty = EmptyPanel(
            "Library",
            Content.assemble(
                ("No models yet. ", "$foreground"),
                ("d", "$primary bold"),
                (" finds one on the hub and fetches it; ", "$foreground"),
                ("rbee model import", "$primary bold"),
                (" takes in what Ollama and LM Studio keep.", "$foreground"),
            ),
        )
        rows = Vertical(self.table, empty, self.search_box(), id="library-rows")
        left = Vertical(rows, self.transfers, id="models-left")
        return [Container(left, self.details, id="models-body")]

    def on_mount(self) -> None:
        self._held: list[HeldModel] | None = None
        self._items: dict[str, Item] = {}
        self._carried: list[Carriage] = []
        self._tales: dict[str, Tale] = {}
        self._put_away: set[str] = set()
        self._read: object = None
        self._read_at = 0.0
        self._trouble = ""
        self._told_of: str | None = None
        self._spots: list[Spot] | None = None
        self._no_spots = ""
        self._had_rows: bool | None = None
        self._offered: object = None
        super().on_mount()

    # ---- what is shown -------------------------------------------------------------------------

    @property
    def item(self) -> Item | None:
        """The model under the cursor."""
        row = self.table.current
        return None if row is None else self._items.get(row.key)

    def tells(self, job: JobInfo) -> bool:
        """The Transfers panel says how what is done with models has ended."""
        return job.operation in VERBS

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that have nothing to act on are not offered."""
        if not self.is_mounted:
            return False
        item = self.item
        if action == "cancel_transfer":
            return self._chosen(active=True) is not None or None
        if action == "retry_transfer":
            return self._chosen(active=False) is not None or None
        if action == "unload_model":
            return (item is not None and bool(item.workers)) or None
        if action == "open_row" and self.transfers.has_focus:
            return None
        if action in _NEEDS_ONE:
            return (item is not None and bool(item.held.hives or not item.coming)) or None
        return bool(self._items) or None if action == "filter" else True

    def show(self) -> None:
        """The tables, and all of the model under the cursor."""
        store = self.rbee.store
        shown = store.connected and self.rbee.screen is self  # a late repaint asks for nothing
        if shown:
            self._keep_fresh()
        elif not store.connected:
            self._read = None
        for gone in self._tales.keys() - store.jobs.keys():
            del self._tales[gone]
        self._put_away &= store.jobs.keys()
        waiting = unread(store, self._tales)
        if waiting and shown:
            for job in waiting:
                self._tales[job.job_id] = Tale()
            self.run_worker(partial(self._hear, waiting), group="tales", exit_on_error=True)
        held = self._held
        if held is None:  # until the catalogue is read
            held = [HeldModel(model=model, hives=[]) for model in store.offered_models()]
        found = items(held, store)
        self._items = {item.key: item for item in found}
        self._set_out(any_rows=bool(found))
        self.table.show(found, store, self._trouble)
        self._carried = carriages(store, self._tales, self._put_away)
        self.transfers.show(self._carried)
        self.changed()

    def changed(self) -> None:
        """The details follow the cursor at once."""
        item = self.item
        self._attend(item)
        if self.details.display:
            self.details.show(item, self._spots, self._no_spots, self.rbee.store)
        offered = (
            item and (item.key, bool(item.workers), bool(item.held.hives)),
            self._chosen(active=True) is None,
            self._chosen(active=False) is None,
        )
        if offered != self._offered:
            self._offered = offered
            self.refresh_bindings()

    def on_screen_suspend(self) -> None:
        super().on_screen_suspend()
        for group in ("catalogue", "fits"):
            self.workers.cancel_group(self, group)
        self._read = self._told_of = None

    def action_open_row(self) -> None:
        """To the details of the model under the cursor."""
        if self.item is not None and not self.transfers.has_focus:
            self.add_class("-open")
            self.call_after_refresh(self._opened_details)

    def back(self) -> bool:
        """Leave the details, the filter, what has ended, the marks; in this order."""
        chosen = self.transfers.current if self.transfers.has_focus else None
        if self.has_class("-open"):
            self.remove_class("-open")
        elif self.leave_filter():
            pass
        elif chosen is not None and chosen.key in self.rbee.store.jobs:
            if self.rbee.store.jobs[chosen.key].state in ACTIVE_JOBS:
                return False
            self._put_away.add(chosen.key)
            self.repaint()
            return True
        elif self.table.marked:
            self.table.marked.clear()
            self.repaint()
        else:
            return False
        self.table.focus()
        self.changed()
        return True

    # ---- what the keys do ----------------------------------------------------------------------

    def action_download(self) -> None:
        """Find a model on the hub, or name one; then where to."""

        def chosen(wanted: Wanted | None) -> None:
            if wanted is not None:
                ask_download(self.rbee, wanted)

        self.rbee.push_screen(FindModel(), chosen)

    def action_start_model(self) -> None:
        """Start a worker with the model, where one wants it."""
        if self.item is not None:
            start_somewhere(self.rbee, self.item.model)

    def action_copy_model(self) -> None:
        """Copy those that are marked, or the one under the cursor, to another machine."""
        if held := self._targets():
            ask_copy(self.rbee, held, self.table.marked.clear)

    def action_remove_model(self) -> None:
        """Ask, then delete those that are marked, or the one under the cursor."""
        if held := self._targets():
            ask_delete(self.rbee, held, self.table.marked.clear)

    def action_verify_model(self) -> None:
        """Read the files again, on each machine that has them and is online."""
        hives = self.rbee.store.hives
        for held in self._targets():
            for hive in held.hives:
                if hive in hives and hives[hive].online:
                    words = f"checking {held.model.id} on {hive}"
                    self.rbee.submit(ModelVerify(model=held.model.id, hive=hive), words)
        self.table.marked.clear()

    def action_unload_model(self) -> None:
        """End its workers, each when what it runs has ended."""
        loaded = {worker.model for worker in self.rbee.store.workers.values()}
        for held in self._targets():
            if held.model.id in loaded:
                words = f"unloading {held.model.id}"
                self.rbee.submit(ModelUnload(model=held.model.id), words)
        self.table.marked.clear()

    def action_cancel_transfer(self) -> None:
        """Ask, then cancel it; whatever has come is kept."""
        one = self._chosen(active=True)
        if one is not None:
            ask_cancel(self.rbee, one)

    def action_retry_transfer(self) -> None:
        """The same again, as a new job."""
        one = self._chosen(active=False)
        if one is not None:
            self.rbee.run_worker(self._retry(one), exit_on_error=True)

    async def _retry(self, one: Carriage) -> None:
        try:
            accepted = await self.rbee.link.require().retry(one.key)
        except RbeeError as exc:
            self.rbee.toast(exc)
            return
        self._put_away.add(one.key)
        words = f"{accepted.job_id} asks again what {one.key} asked"
        self.rbee.notify(words, timeout=3, markup=False)

    def _targets(self) -> list[HeldModel]:
        """What is marked, else what is under the cursor; those that some hive has."""
        chosen = [self._items[row.key] for row in self.table.chosen() if row.key in self._items]
        return [item.held for item in chosen if item.held.hives]

    def _chosen(self, *, active: bool) -> Carriage | None:
        """What cancelling (`active`) or trying again is about: under the cursor of the transfers,
        of the model under the other cursor, or the only one there is."""
        able = [
            one
            for one in self._carried
            if (one.active and bool(one.jobs) if active else one.repeatable)
        ]
        row = self.transfers.current
        if self.transfers.has_focus:
            return next((one for one in able if row is not None and one.key == row.key), None)
        item = self.item
        mine = [one for one in able if item is not None and one.model == item.model.id]
        return mine[0] if mine else able[0] if len(able) == 1 else None

    # ---- what is asked of the queen ------------------------------------------------------------

    def _keep_fresh(self) -> None:
        """Read the catalogue when something has changed in it."""
        store = self.rbee.store
        online = frozenset(hive.name for hive in store.hives.values() if hive.online)
        now, state = store.clock(), (tuple(store.models), online)
        if state == self._read and now - self._read_at < REREAD_SECONDS:
            return
        self._read, self._read_at = state, now
        self.run_worker(self._catalogue, group="catalogue", exclusive=True)

    async def _catalogue(self) -> None:
        await anyio.sleep(SETTLE_SECONDS)
        while True:
            try:
                async with QueenClient(self.rbee.link.require().url) as client:
                    self._held = await client.models()
                self._trouble = ""
                break
            except RbeeError as exc:
                self._trouble = f"not read: {exc.message}"
            self._repaint_here()
            await anyio.sleep(AGAIN_SECONDS)
        self._repaint_here()

    def _attend(self, item: Item | None) -> None:
        """Ask what fits where for the model under the cursor while that is shown, no other."""
        shown = self.details.display and self.rbee.screen is self and self.rbee.store.connected
        wanted = item.model.id if item is not None and item.held.hives and shown else None
        if wanted == self._told_of:
            return
        self._told_of, self._spots, self._no_spots = wanted, None, ""
        self.workers.cancel_group(self, "fits")
        if wanted is not None:
            self.run_worker(partial(self._forecast, wanted), group="fits", exclusive=True)

    async def _forecast(self, model: str) -> None:
        await anyio.sleep(SETTLE_SECONDS)
        while True:
            try:
                async with QueenClient(self.rbee.link.require().url) as client:
                    self._spots = await client.fits(model)
                self._no_spots = ""
            except RbeeError as exc:
                self._spots, self._no_spots = None, exc.message
            self.changed()
            await anyio.sleep(FORECAST_SECONDS)

    async def _hear(self, jobs: list[JobInfo]) -> None:
        """What each job's own stream says at its end."""
        for job in jobs:
            try:
                async with QueenClient(self.rbee.link.require().url) as client:
                    self._tales[job.job_id] = await tale_of(client, job.job_id)
            except (QueenUnreachable, ConnectionTimeout):
                self._tales.pop(job.job_id, None)
            except RbeeError:
                continue  # such as a stream that is no longer kept: what the job says is shown
        self._repaint_here()

    def _repaint_here(self) -> None:
        if self.rbee.screen is self:
            self.repaint()

    # ---- layout --------------------------------------------------------------------------------

    def _set_out(self, *, any_rows: bool) -> None:
        """Show the table or what stands in its place; the focus never stays on what is hidden."""
        if any_rows == self._had_rows:
            return
        before, self._had_rows = self._had_rows, any_rows
        empty = self.query_one("#empty")
        hidden, shown = (empty, self.table) if any_rows else (self.table, empty)
        held = self.focused in (None, hidden) or before is None
        hidden.display, shown.display = False, True
        if not any_rows:
            self.remove_class("-open")
        if held:
            shown.focus()
        self.refresh_bindings()

    def _opened_details(self) -> None:
        self.details.focus()
        self.changed()
