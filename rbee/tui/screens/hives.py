"""Hives: the machines of the colony, what each is and has, and what is being done with it.

Reads the store, and while it is on screen the streams of the operations on machines; what it does
to the colony goes through the app as jobs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import msgspec
from textual.binding import BindingType
from textual.containers import Container, Vertical
from textual.widget import Widget

from rbee import __version__
from rbee.errors import RbeeError
from rbee.machine_words import state_of, version_of
from rbee.protocol.hives import HiveInfo
from rbee.protocol.jobs import JobInfo
from rbee.protocol.operations import (
    HiveAdd,
    HiveCheck,
    HiveInstall,
    HiveRefresh,
    HiveRemove,
    HiveRestart,
    HiveStart,
    HiveStop,
    HiveTask,
    HiveUpgrade,
    HiveWake,
)
from rbee.tui import keymap
from rbee.tui.errand import Errand
from rbee.tui.errands import Errands
from rbee.tui.looking import look_around
from rbee.tui.screens.adding import TRUST, AddMachine, key_question
from rbee.tui.screens.dialogs import Choice, Confirm, Details
from rbee.tui.screens.filtering import FilteredScreen
from rbee.tui.shell import open_shell
from rbee.tui.widgets.machines import HiveTable, MachinePanel, NearbyTable

MOST_KEYS = 9
"""Host keys that one addition may ask about: eight jumps and the machine itself."""
_OTHERS = frozenset({"install", "start_or_stop", "shell", "remove"})
"""Actions on machines that were added: the queen's own comes and goes with her."""


class Hives(FilteredScreen[HiveTable]):
    """Mode 2."""

    MODE = "hives"
    HELP_SCOPES = ("hives", "lists")
    AUTO_FOCUS = "#hives"
    BINDINGS: ClassVar[list[BindingType]] = [
        *keymap.bindings("hives"),
        *keymap.bindings("dashboard", only=("list.filter",)),
    ]

    def body(self) -> Iterable[Widget]:
        glyphs = self.rbee.glyphs
        self.table = HiveTable(glyphs)
        self.nearby = NearbyTable(glyphs)
        self.panel = MachinePanel(glyphs)
        rows = Vertical(self.table, self.search_box(), id="machines")
        return [
            Container(Vertical(rows, self.nearby, id="hives-left"), self.panel, id="hives-body")
        ]

    def on_mount(self) -> None:
        self.errands = Errands(self.rbee, self._ended)
        self._adding: dict[str, HiveAdd] = {}
        self._keys: dict[str, int] = {}
        self._asked_around = False
        self._offered: object = None
        super().on_mount()

    @property
    def selected(self) -> str | None:
        """The name under the cursor."""
        row = self.table.current
        return None if row is None else row.key

    @property
    def hive(self) -> HiveInfo | None:
        """The machine under the cursor; None also for one that is not added yet."""
        return self.rbee.store.hives.get(self.selected or "")

    def tells(self, job: JobInfo) -> bool:
        """The panel says how an operation on its machine has ended."""
        return job.operation.startswith("hive_") and job.hive == self.selected

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that have nothing to act on are not offered."""
        if not self.is_mounted:
            return False
        hive = self.hive
        if action in _OTHERS:
            if action == "remove" and hive is None:
                return self.selected is not None
            return hive is not None and hive.record is not None
        if action == "restart":
            return hive is not None and hive.record is not None and hive.online
        if action == "wake":
            return hive is not None and hive.record is not None and not hive.online
        if action in ("log", "check"):
            return hive is not None
        return bool(self.rbee.store.hives) if action == "filter" else True

    def show(self) -> None:
        """The tables, and all of the machine under the cursor."""
        store = self.rbee.store
        for errand in self.errands.unread():
            self.run_worker(self.errands.follow(errand), group="errands", exit_on_error=True)
        pending = self.errands.additions(self._adding)
        self.table.show(store, pending, self.errands.of_hives(), self._ours)
        self.nearby.show(store.around)
        self.changed()
        if store.connected and not self._asked_around:
            self._look_around(lan=False)

    def on_screen_suspend(self) -> None:
        super().on_screen_suspend()
        self.workers.cancel_group(self, "errands")
        self.errands.leave()

    def action_add(self, target: str = "", name: str = "") -> None:
        """Ask where a machine is and what it is called, then add it."""
        around = self.rbee.store.around
        known = around.machines if around is not None else []
        taken = set(self.rbee.store.hives)
        hint = " ".join(around.notes[:2]) if around is not None and not known else ""
        dialog = AddMachine(known, taken, target=target, name=name, hint=hint)
        self.rbee.push_screen(dialog, self._add)

    def action_install(self) -> None:
        """This queen's rbee on that machine; asks where workers would have to make room."""
        hive = self.hive
        if hive is None:
            return
        name, theirs = hive.name, version_of(hive)
        if not theirs or theirs == self._ours:
            self._do(HiveInstall(hive=name), f"installing rbee on {name}")
            return
        upgrade = HiveUpgrade(hive=name), f"upgrading rbee on {name}"
        if not hive.workers:
            self._do(*upgrade)
            return
        self._ask(
            f"Upgrade {name}?",
            f"rbee {theirs} there, {self._ours} here. {_workers(hive)} there: what they run is let "
            "end, then they stop.",
            [Choice("k", "leave it as it is", "keep"), Choice("u", "upgrade it", "yes")],
            *upgrade,
        )

    def action_start_or_stop(self) -> None:
        """Start a hive that is stopped; ask before one that is up is stopped."""
        hive = self.hive
        if hive is None or hive.record is None:
            return
        name = hive.name
        if state_of(hive) in ("stopped", "not installed"):
            self._do(HiveStart(hive=name), f"starting the hive of {name}")
            return
        cost = f"{_workers(hive)} there and stop with it. " if hive.workers else ""
        self._ask(
            f"Stop the hive of {name}?",
            f"{cost}It stays down until it is started again.",
            [Choice("k", "keep it up", "keep"), Choice("s", "stop it", "yes")],
            HiveStop(hive=name),
            f"stopping the hive of {name}",
        )

    def action_restart(self) -> None:
        """Ask, then stop the hive and start it."""
        hive = self.hive
        if hive is None:
            return
        self._ask(
            f"Restart the hive of {hive.name}?",
            f"{_workers(hive)} there and stop with it." if hive.workers else "No worker is there.",
            [Choice("k", "keep it up", "keep"), Choice("r", "restart it", "yes")],
            HiveRestart(hive=hive.name),
            f"restarting the hive of {hive.name}",
        )

    def action_remove(self) -> None:
        """Ask, then forget a machine; one that could not be added just goes from the list."""
        hive, name = self.hive, self.selected
        if name is not None and hive is None:
            self.errands.put_away(name)
            self.repaint()
        if hive is None or hive.record is None:
            return
        cost = f"{_workers(hive)} there and stop. " if hive.workers else ""
        self._ask(
            f"Remove {hive.name}?",
            f"Its hive is stopped and the machine is forgotten. {cost}What is installed there, "
            "and its models, stay.",
            [Choice("k", "keep it", "keep"), Choice("r", "remove it", "yes")],
            HiveRemove(hive=hive.name),
            f"removing {hive.name}",
        )

    def action_wake(self) -> None:
        """Wake it over the network."""
        if self.hive is not None:
            self._do(HiveWake(hive=self.hive.name), f"waking {self.hive.name}")

    def action_check(self) -> None:
        """Test the way there and back."""
        if self.hive is not None:
            self._do(HiveCheck(hive=self.hive.name), f"checking {self.hive.name}")

    def action_refresh(self) -> None:
        """Reach the machine at once; in the lower table, look for machines again."""
        if self.nearby.has_focus or self.hive is None:
            self._look_around(lan=True)
        else:
            self._do(HiveRefresh(hive=self.hive.name), f"reaching {self.hive.name}")

    def action_log(self) -> None:
        """Follow the machine's log."""
        if self.hive is not None:
            self.rbee.show_logs(self.hive.name)

    def action_shell(self) -> None:
        """The user's own ssh, until its shell is left."""
        hive = self.hive
        if hive is not None and hive.record is not None:
            self.run_worker(self._shell(hive.record.target), exit_on_error=True, group="shell")

    def action_open_row(self) -> None:
        """All of a machine; or the question it waits with; or the dialog that adds it."""
        if self.nearby.has_focus:
            found = self.nearby.chosen_machine
            if found is not None and found.added_as is None:
                self.action_add(found.target)
            return
        hive, errand = self.hive, self.errands.of(self.selected)
        if errand is not None and errand.awaits_key is not None and hive is None:
            self._ask_key(errand)
        elif hive is not None:
            store = self.rbee.store
            facts = self.panel.all_facts(hive, store, self._ours)
            self.rbee.push_screen(Details(hive.name, facts))
        elif errand is not None and errand.ended:
            tried = self._adding.get(errand.hive)
            self.action_add(tried.target if tried else "", errand.hive)

    def back(self) -> bool:
        """Leave the filter; else cancel what is under way with the machine, or put it away."""
        errand = self.errands.of(name := self.selected)
        if self.leave_filter():
            self.table.focus()
            return True
        if errand is None or name is None:
            return False
        if errand.ended:
            self.errands.put_away(name)
            self.repaint()
        else:
            self._ask_cancel(errand)
        return True

    @property
    def _ours(self) -> str:
        return self.rbee.store.version or __version__

    def _do(self, operation: HiveTask, words: str) -> None:
        self.rbee.submit(operation, words)  # pyright: ignore[reportArgumentType]

    def _ask(
        self, title: str, question: str, choices: list[Choice], operation: HiveTask, words: str
    ) -> None:
        def answered(choice: str | None) -> None:
            if choice == "yes":
                self._do(operation, words)

        self.rbee.push_screen(Confirm(title, question, choices), answered)

    def _add(self, operation: HiveAdd | None) -> None:
        if operation is None:
            return
        self._adding[operation.name] = operation
        self._keys[operation.name] = 0
        self.table.cursor_key = operation.name
        self.table.focus()
        self._do(operation, f"adding {operation.name}")

    def _ask_key(self, errand: Errand) -> None:
        tried, error = self._adding.get(errand.hive), errand.error
        shown = errand.awaits_key
        if tried is None or error is None or shown is None:
            return

        def answered(choice: str | None) -> None:
            if choice == TRUST:
                again = msgspec.structs.replace(tried, accept=shown)
                self._adding[errand.hive] = again
                self._do(again, f"adding {errand.hive}")

        self.rbee.push_screen(key_question(errand.hive, error), answered)

    def _ask_cancel(self, errand: Errand) -> None:
        if not errand.operation.startswith(("hive_install", "hive_upgrade")):
            self.run_worker(self.errands.cancel(errand), exit_on_error=True)
            return

        def answered(choice: str | None) -> None:
            if choice == "yes":
                self.run_worker(self.errands.cancel(errand), exit_on_error=True)

        question = (
            f"It stops {errand.verb} rbee on {errand.hive}. What is in use there stays in use, "
            "and what was sent is removed."
        )
        choices = [Choice("k", "go on", "keep"), Choice("c", "cancel it", "yes")]
        self.rbee.push_screen(Confirm("Cancel?", question, choices), answered)

    async def _shell(self, target: str) -> None:
        try:
            await open_shell(self.rbee, target)
        except RbeeError as exc:
            self.rbee.toast(exc)

    def _look_around(self, *, lan: bool) -> None:
        self._asked_around = True
        self.nearby.looking = True
        self.run_worker(self._looked(lan=lan), group="nearby", exclusive=True, exit_on_error=True)

    async def _looked(self, *, lan: bool) -> None:
        try:
            await look_around(self.rbee, lan=lan)
        finally:
            self.nearby.looking = False
        self.repaint()

    def _ended(self, errand: Errand) -> None:
        self.repaint()
        note = errand.result.get("message")
        if note:
            self.rbee.notify(str(note), title=errand.hive, timeout=10, markup=False)
        asked = self._keys.get(errand.hive, MOST_KEYS)
        if errand.awaits_key is not None and asked < MOST_KEYS and self.rbee.screen is self:
            self._keys[errand.hive] = asked + 1
            self._ask_key(errand)

    def changed(self) -> None:
        """All of the machine under the cursor."""
        hive, errand = self.hive, self.errands.of(self.selected)
        self.panel.show(self.selected, hive, errand, self.rbee.store, self._ours)
        # Which keys are offered depends on these.
        offered = (self.selected, hive and (hive.online, state_of(hive)), bool(self.table.rows))
        if offered != self._offered:
            self._offered = offered
            self.refresh_bindings()


def _workers(hive: HiveInfo) -> str:
    return f"{hive.workers} worker{'s run' if hive.workers != 1 else ' runs'}"
