"""FirstSteps: what the welcome's keys do: use this machine, add one, install there, get a model.

Owns the dialogs that a key asks for and hands the answers to the first run. When the welcome is
shown is the first run's to say; what it shows is the widget's.
"""

from __future__ import annotations

import msgspec

from rbee.protocol.jobs import JobInfo
from rbee.protocol.operations import HiveAdd, HiveInstall, ModelDownload, WorkerSpawn
from rbee.tui.errand import Errand, Stand
from rbee.tui.first_run import First, FirstRun, demo_model, to_install
from rbee.tui.looking import look_around
from rbee.tui.screens.adding import TRUST, AddMachine, key_question
from rbee.tui.screens.filtering import FilteredScreen
from rbee.tui.screens.finding import FindModel, Wanted
from rbee.tui.widgets.table import RowTable

_LAST = frozenset({"again"})
_STEPS = frozenset({"use_machine", "add_machine", "install_machine", "demo"})


class FirstSteps(FilteredScreen[RowTable]):
    """The dashboard's half of the first run."""

    def on_mount(self) -> None:
        self.first = FirstRun(self.rbee, self.repaint)
        self._looked = False
        super().on_mount()

    def tells(self, job: JobInfo) -> bool:
        """The welcome says how its own errand has ended."""
        return self.first.tells(job)

    def may_step(self, action: str) -> bool | None:
        """Whether a key of the welcome has something to act on; None: it is none of them."""
        store, first = self.rbee.store, self.first
        errand = first.errand
        if action in _LAST:
            return errand is not None and errand.stand in (Stand.FAILED, Stand.CANCELLED)
        if action not in _STEPS:
            return None
        if not store.connected:
            return False
        if action == "use_machine":
            if errand is not None:
                return errand.awaits_key is not None or errand.stand is Stand.DONE
            return any(hive.online for hive in store.hives.values())
        if errand is not None:
            return False
        if action == "install_machine":
            return to_install(store) is not None
        if action == "demo":
            online = any(hive.online for hive in store.hives.values())
            return demo_model(store) is not None or online
        return True

    def action_use_machine(self) -> None:
        """Go on to the dashboard; or answer what an errand waits for; or leave what is done."""
        errand = self.first.errand
        if errand is None:
            self.first.done = True
        elif errand.awaits_key is not None:
            self._ask_key(errand)
        elif errand.stand is Stand.DONE:
            self.first.put_away()
        self.repaint()

    def action_add_machine(self) -> None:
        """Ask where a machine is and what it is called; then add it, told on the welcome."""
        store = self.rbee.store
        around = store.around
        known = around.machines if around is not None else []
        hint = " ".join(around.notes[:2]) if around is not None and not known else ""
        self.rbee.push_screen(AddMachine(known, set(store.hives), hint=hint), self._begin_one)

    def action_install_machine(self) -> None:
        """Install rbee on the machine that was added."""
        hive = to_install(self.rbee.store)
        if hive is not None:
            self._begin(HiveInstall(hive=hive.name))

    def action_demo(self) -> None:
        """Start the demo model when the colony has it, else ask which model to download."""
        model = demo_model(self.rbee.store)
        if model is not None:
            self._begin(WorkerSpawn(model=model))
        else:
            self.rbee.push_screen(FindModel(), self._fetch)

    def action_again(self) -> None:
        """The same once more."""
        if self.first.tried is not None:
            self._begin(self.first.tried)

    def leave_errand(self) -> bool:
        """Cancel what is under way from the welcome, or put it away; False: there is nothing."""
        if not self.first.welcomes or self.first.errand is None:
            return False
        if self.first.busy:
            self.run_worker(self.first.cancel(), exit_on_error=True)
        else:
            self.first.put_away()
            self.repaint()
        return True

    def look_around_once(self) -> None:
        """The machines that the first run names."""
        if self.rbee.store.connected and not self._looked:
            self._looked = True
            self.run_worker(self._look(), group="nearby", exit_on_error=True)

    async def _look(self) -> None:
        await look_around(self.rbee, lan=True)
        self.repaint()

    def _fetch(self, wanted: Wanted | None) -> None:
        if wanted is not None:
            self._begin(ModelDownload(model=wanted.ref))

    def _begin_one(self, operation: First | None) -> None:
        if operation is not None:
            self._begin(operation)

    def _begin(self, operation: First) -> None:
        self.run_worker(self._run(operation), group="first", exclusive=True, exit_on_error=True)

    async def _run(self, operation: First) -> None:
        await self.first.start(operation)
        errand = self.first.errand
        # It was asked for a moment ago, by the person who has to answer.
        if errand is not None and errand.awaits_key and self.rbee.screen is self:
            self._ask_key(errand)

    def _ask_key(self, errand: Errand) -> None:
        tried, error, shown = self.first.tried, errand.error, errand.awaits_key
        if not isinstance(tried, HiveAdd) or error is None or shown is None:
            return

        def answered(choice: str | None) -> None:
            if choice == TRUST:
                self._begin(msgspec.structs.replace(tried, accept=shown))

        self.rbee.push_screen(key_question(errand.hive, error), answered)
