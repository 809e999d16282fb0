"""RbeeApp: the terminal screens of one colony.

Owns the modes, the store, the link to the queen and everything a key may do to the colony. It
reaches the queen only through rbee.client, and never starts or kills a process itself: that is the
keeper's work. `run()` returns the line to print after the screen is gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import App
from textual.binding import BindingType
from textual.command import Command, CommandPalette
from textual.filter import LineFilter

from rbee import __version__
from rbee.client import QueenKeeper
from rbee.errors import InternalError, RbeeError
from rbee.paths import Paths
from rbee.protocol.base import Wire
from rbee.protocol.jobs import JobInfo, JobState
from rbee.protocol.operations import Operation, WorkerSpawn, WorkerStop
from rbee.settings_sections import TuiSettings
from rbee.tui import key_choices, keymap
from rbee.tui.cells import safe
from rbee.tui.desk import SettingsDesk
from rbee.tui.error_story import Mishap
from rbee.tui.glyphs import UNICODE
from rbee.tui.guard import Guard
from rbee.tui.keymap import MODES, Action
from rbee.tui.link import QueenLink
from rbee.tui.look import put_on
from rbee.tui.modes import SCREENS
from rbee.tui.palette import Commands
from rbee.tui.quitting import leave
from rbee.tui.screens.base import ColonyScreen
from rbee.tui.screens.dashboard import Dashboard
from rbee.tui.screens.jump import Jump, Target, jump_targets
from rbee.tui.screens.overlays import Help
from rbee.tui.screens.report import Report
from rbee.tui.store import DEAD_WORKERS, ColonyStore
from rbee.tui.talk_files import Shelf, Summary
from rbee.tui.theme_shelf import ThemeShelf
from rbee.tui.themes import variable_defaults

if TYPE_CHECKING:
    from rbee.tui.screens.chat import Chat
    from rbee.tui.screens.logs import Logs

TICK_SECONDS = 1.0


class RbeeApp(App[str]):
    """The app; nine modes on `1`–`9`."""

    TITLE = "⬢ rbee"
    CSS_PATH = "rbee.tcss"
    MODES = SCREENS
    DEFAULT_MODE = "dashboard"
    COMMANDS = {Commands}
    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings(
        "everywhere", priority=("app.quit", "app.palette", "view.jump")
    )

    def __init__(
        self,
        *,
        keeper: QueenKeeper,
        theme: str = "honey-dark",
        ascii_glyphs: bool = False,
        keys: Mapping[str, str] | None = None,
        desk: SettingsDesk | None = None,
        model: str | None = None,
        clock: Callable[[], float] = time.time,
        themes_folder: Path | None = None,
        chats_folder: Path | None = None,
        dark: bool | None = None,
        version: str = __version__,
    ) -> None:
        """`clock`: UTC seconds; `version`: what the queen has to be; `dark`: whether the terminal's
        background is. `desk`: the settings, which then come before `theme`, `ascii_glyphs`, `keys`.

        Raises SettingsError for an unknown theme, key id or key.
        """
        self._default_variables: dict[str, str] = {}
        super().__init__()
        self.keeper = keeper
        self.glyphs = replace(UNICODE)
        self.refresh_seconds = 1.0
        self._desk = desk
        self.first_model = model
        self.shelf = None if chats_folder is None else Shelf(chats_folder)
        self.store = ColonyStore(clock=clock)
        self.link = QueenLink(keeper, self.store, self._colony_changed, version=version)
        self._guards = Guard(), Guard(plain=True)
        self._own_jobs: set[str] = set()
        self._preloaded = model is None
        self._leaving = False
        self._mishap: Mishap | None = None
        self.themes = ThemeShelf(self, themes_folder, dark=dark)
        tui = TuiSettings(theme=theme, ascii=ascii_glyphs) if desk is None else desk.settings.tui
        put_on(self, tui)
        self.use_keys((keys or {}) if desk is None else desk.settings.keys, vim=tui.vim)
        self.themes.begin(tui.theme, sure=desk is None)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """rbee's own variables, for themes that do not know them."""
        return variable_defaults(self.current_theme)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's, and last of all the guard of the terminal."""
        return [*super().get_line_filters(), self._guards[self.glyphs.plain]]

    def on_mount(self) -> None:
        self.set_interval(TICK_SECONDS, self.store.tick)
        self.run_worker(self.link.run(), name="link", exit_on_error=True)
        self.run_worker(self.themes.watch(), name="themes", exit_on_error=True)
        for error in self.themes.errors:
            self.toast(error)
        if self._desk is not None and self._desk.problem is not None:
            self.toast(self._desk.problem)

    @property
    def desk(self) -> SettingsDesk:
        """The settings; this user's, where nobody has handed them in."""
        if self._desk is None:
            self._desk = SettingsDesk(Paths.user(), check=self.check_keys)
        return self._desk

    @classmethod
    def check_keys(cls, keys: Mapping[str, str]) -> dict[str, str]:
        """Raises SettingsError for `[keys]` that cannot be."""
        return key_choices.check(keys, cls.key_groups())

    @classmethod
    def key_groups(cls) -> list[key_choices.Group]:
        """Ids whose keys work at the same time, screen by screen."""
        return key_choices.groups_of(
            screen for screen in cls.MODES.values() if isinstance(screen, type)
        )

    def use_keys(self, keys: Mapping[str, str], *, vim: bool) -> None:
        """Obey these keys from now on. Raises SettingsError when they cannot be."""
        self.chosen_keys = self.check_keys(keys)
        self.overrides = key_choices.effective(self.chosen_keys, vim=vim)
        self.set_keymap(self.overrides)

    def apply_settings(self) -> None:
        """What the desk has read last is how things look and which keys work."""
        settings = self.desk.settings
        put_on(self, settings.tui)
        self.use_keys(settings.keys, vim=settings.tui.vim)
        if settings.tui.theme != self.themes.chosen:
            self.themes.choose(settings.tui.theme)
        if isinstance(self.screen, ColonyScreen):
            self.screen.pace()
            self.screen.repaint()
            self.screen.refresh(layout=True)

    def choose_theme(self, name: str) -> None:
        """Switch colours at once, and keep them in `ui.toml`."""
        self.themes.choose(name)
        self.run_worker(self._keep_theme(name), exit_on_error=True)

    async def _keep_theme(self, name: str) -> None:
        try:
            await self.desk.run(partial(self.desk.write, "tui.theme", name))
        except RbeeError as exc:
            self.toast(exc)

    @on(CommandPalette.OptionHighlighted)
    def _palette_moved(self, event: CommandPalette.OptionHighlighted) -> None:
        option = event.highlighted_event.option
        text = (option.hit.text or "") if isinstance(option, Command) else ""
        prefix, _, name = text.partition("theme: ")
        self.themes.preview(name if not prefix and name else None)

    @on(CommandPalette.Closed)
    def _palette_closed(self, event: CommandPalette.Closed) -> None:
        if not event.option_selected:
            self.themes.preview(None)

    def toast(self, error: RbeeError, job: JobInfo | None = None) -> None:
        """An error as a toast: what happened, and what to do. `job`: what it ended."""
        self._mishap = Mishap(error, self.store.clock(), job)
        key = keymap.key_text(self.overrides.get("error.story", keymap.BY_ID["error.story"].keys))
        self.notify(
            f"{safe(error.message)}\n{self.glyphs.arrow} {safe(error.action)} "
            f"{self.glyphs.dot} {key} details",
            title=error.code.replace("_", " ").capitalize(),
            severity="error",
            timeout=10,
            markup=False,
        )

    def start_worker(
        self, model: str, *, hive: str | None = None, device: str | None = None
    ) -> None:
        """Start a worker for a model, as a job; where it runs best, unless that is said."""
        where = f" on {hive} {device}" if hive else ""
        operation = WorkerSpawn(model=model, hive=hive, device=device)
        self.submit(operation, f"starting a worker for {model}{where}")

    def stop_worker(self, worker_id: str) -> None:
        """Stop a worker, as a job."""
        self.submit(WorkerStop(worker_id=worker_id), f"stopping {worker_id}")

    def ask_stop(self, worker_id: str) -> None:
        """The confirm dialog about a worker, from anywhere."""
        worker = self.store.workers.get(worker_id)
        if worker is not None:
            self._then("dashboard", lambda screen: _dashboard(screen).ask_stop(worker))

    def show_logs(self, source: str) -> None:
        """The log of the queen, a hive or a worker, with what was told about it."""
        self._then("logs", lambda screen: _logs(screen).choose(source))

    def open_chats(self) -> list[Summary]:
        """Conversations that are not on screen."""
        chat = self._chat_screen()
        return [] if chat is None else [one for one in chat.chats if one.id != chat.dialogue.id]

    def open_chat(self, summary: Summary) -> None:
        """Show a conversation."""
        chat = self._chat_screen()
        if chat is not None:
            self._then("chat", lambda _: chat.open_chat(summary.id))

    def perform(self, action: Action) -> None:
        """Do what an action's key would do, on the screen it belongs to."""
        mode = action.scope if action.scope in self.MODES else None
        if mode is None:
            self.call_later(self.run_action, action.method)
        else:
            self._then(mode, lambda screen: self.call_later(screen.run_action, action.method))

    def action_mode(self, mode: str) -> None:
        """Show one of the nine screens."""
        if self._shown() is not None:
            self.switch_mode(mode)

    def action_step_mode(self, step: int) -> None:
        """The previous or next screen."""
        names = [mode.name for mode in MODES]
        self.action_mode(names[(names.index(self.current_mode) + step) % len(names)])

    def action_command_palette(self) -> None:
        """Everything by name; not over a question, which has to be answered first."""
        if isinstance(self.screen, ColonyScreen):
            super().action_command_palette()

    def action_jump(self) -> None:
        """Letters on the panels and on their rows."""
        if not isinstance(self.screen, ColonyScreen):
            return
        panels = [widget for widget in self.screen.focus_chain if widget.region.area]
        self.push_screen(Jump(jump_targets(panels)), self._jumped)

    def action_help(self) -> None:
        """The keys of the current screen, and all the others below."""
        if isinstance(self.screen, ColonyScreen):
            self.push_screen(Help(self.screen.HELP_SCOPES, self.overrides))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Nothing can be told of an error before there was one."""
        if action == "error_story":
            return self._mishap is not None
        return super().check_action(action, parameters)

    def action_error_story(self) -> None:
        """The last error in full, with what came before it."""
        if self._mishap is not None and isinstance(self.screen, ColonyScreen):
            self.push_screen(Report(self._mishap, self.store, __version__))

    def action_try_again(self) -> None:
        """Look for the queen now, instead of at the end of the countdown."""
        self.link.hurry()

    def action_step_back(self) -> None:
        """Un-maximise, leave a filter, otherwise nothing."""
        if self.screen.maximized is not None:
            self.screen.minimize()
        elif isinstance(self.screen, ColonyScreen):
            self.screen.back()

    def action_maximise(self) -> None:
        """The focused panel fills the screen, and back."""
        if self.screen.maximized is not None:
            self.screen.minimize()
        elif self.screen.focused is not None:
            self.screen.maximize(self.screen.focused, container=False)

    async def action_quit(self) -> None:
        """Leave; asks only when jobs would be lost."""
        if not self._leaving:
            self._leaving = True
            self.run_worker(self._leave(), name="quit", exit_on_error=True)

    async def _leave(self) -> None:
        try:
            await leave(self)
        finally:
            self._leaving = False

    def submit(self, operation: Operation, what: str) -> None:
        """Have a job done; `what` is told once the queen has it, and its failure as a toast."""
        self.run_worker(self._submitted(operation, what), exit_on_error=True)

    async def _submitted(self, operation: Operation, what: str) -> None:
        try:
            accepted = await self.link.require().submit(operation)
        except RbeeError as exc:
            self.toast(exc)
            return
        self._own_jobs.add(accepted.job_id)
        self.notify(what, timeout=3, markup=False)

    def _colony_changed(self, name: str, payload: Wire | None) -> None:
        if isinstance(payload, JobInfo):
            self._own_job_changed(payload)
        if name == "snapshot":
            self._preload()
        if name in ("snapshot", "link") and isinstance(self.screen, ColonyScreen):
            self.screen.repaint()

    def _own_job_changed(self, job: JobInfo) -> None:
        if job.job_id not in self._own_jobs:
            return
        told = isinstance(self.screen, ColonyScreen) and self.screen.tells(job)
        if job.state is JobState.FAILED and not told:
            self.toast(
                RbeeError.from_body(
                    {"error": {"code": job.error_code, "message": job.error_message, "details": {}}}
                )
                if job.error_code
                else InternalError(f"{job.operation} failed"),
                job,
            )
        if job.state in (JobState.FAILED, JobState.COMPLETED, JobState.CANCELLED):
            self._own_jobs.discard(job.job_id)

    def _preload(self) -> None:
        model = self.first_model
        if self._preloaded or model is None:
            return
        self._preloaded = True
        running = {w.model for w in self.store.workers.values() if w.state not in DEAD_WORKERS}
        if model not in running:
            self.start_worker(model)

    def _jumped(self, target: Target | str | None) -> None:
        if isinstance(target, str):
            self.action_mode(target)
        elif target is not None:
            target.go()

    def _chat_screen(self) -> Chat | None:
        stack = self._screen_stacks.get("chat")
        if not stack:
            return None
        from rbee.tui.screens.chat import Chat

        return next((screen for screen in stack if isinstance(screen, Chat)), None)

    def _shown(self) -> ColonyScreen | None:
        """The screen that has the keys; None while a dialog has them."""
        return self.screen if isinstance(self.screen, ColonyScreen) else None

    def _then(self, mode: str, act: Callable[[ColonyScreen], object]) -> None:
        async def switched() -> None:
            if self._shown() is None:
                return  # a question is asked, and is answered first
            if self.current_mode != mode:
                await self.switch_mode(mode)
            if (screen := self._shown()) is not None:
                act(screen)

        self.run_worker(switched(), exit_on_error=True)


def _logs(screen: ColonyScreen) -> Logs:
    from rbee.tui.screens.logs import Logs

    if not isinstance(screen, Logs):
        raise TypeError(f"{screen!r} is not the screen of logs")
    return screen


def _dashboard(screen: ColonyScreen) -> Dashboard:
    if not isinstance(screen, Dashboard):
        raise TypeError(f"{screen!r} is not the dashboard")
    return screen
