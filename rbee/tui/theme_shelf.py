"""ThemeShelf: the themes an app can have, the one it has, and the user's folder while it changes.

Owns registering, previewing and the once-a-second look at the folder (file names, times and sizes,
in a thread; files are read only when those differ). A broken file is a toast; what was registered
before stays.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from textual.app import App
from textual.theme import BUILTIN_THEMES, Theme

from rbee.errors import SettingsError
from rbee.tui.themes import bundled_themes, user_themes

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp

AUTO = "auto"
DARK, LIGHT = "honey-dark", "honey-light"
LOOK_SECONDS = 1.0
Stamps = dict[str, tuple[int, int]]


class ThemeShelf:
    """`folder`: the user's own themes; None: there are none. `dark`: whether the terminal's
    background is, where that is known."""

    def __init__(self, app: RbeeApp, folder: Path | None, *, dark: bool | None = None) -> None:
        self._app = app
        self._folder = folder
        self._dark = dark
        self.chosen = DARK
        self.errors: list[SettingsError] = []
        """What was wrong with files of the folder when it was last read."""
        self._stamps: Stamps = {}
        for theme in bundled_themes():
            app.register_theme(theme)
        if folder is not None:
            self._stamps = _stamps(folder)
            self._take(*user_themes(folder))

    def names(self) -> list[str]:
        """rbee's and the user's first, then Textual's."""
        found = self._app.available_themes
        return sorted(found, key=lambda name: (name in BUILTIN_THEMES, name))

    def begin(self, name: str, *, sure: bool) -> None:
        """The first one. Not `sure`: one that is gone or broken is told, and ours is in its place;
        else it raises SettingsError."""
        try:
            self.choose(name)
        except SettingsError as exc:
            if sure:
                raise
            self.errors.append(exc)
            self.choose(DARK)

    def choose(self, name: str) -> None:
        """Switch at once. Raises SettingsError for a theme that is not there."""
        if name != AUTO and name not in self._app.available_themes:
            raise SettingsError(
                f"theme {name!r} is not known",
                action=f"There are {AUTO}, {', '.join(self.names())}.",
            )
        self.chosen = name
        self._app.theme = self._real(name)

    def preview(self, name: str | None) -> None:
        """Show it until something else is shown; None: the chosen one again."""
        wanted = self._real(name or self.chosen)
        if wanted in self._app.available_themes and wanted != self._app.theme:
            self._app.theme = wanted

    async def watch(self) -> None:
        """Until cancelled: look at the folder."""
        while self._folder is not None:
            await anyio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Take in what has changed in the folder since the last look."""
        folder = self._folder
        if folder is None:
            return
        stamps = await anyio.to_thread.run_sync(_stamps, folder)
        if stamps == self._stamps:
            return
        changed = {name for name, stamp in stamps.items() if self._stamps.get(name) != stamp}
        self._stamps = stamps
        before = self._app.current_theme
        self._take(*await anyio.to_thread.run_sync(user_themes, folder))
        for error in self.errors:
            if any(str(folder / name) in error.message for name in changed):
                self._app.toast(error)
        if self._app.current_theme != before:
            self._app.mutate_reactive(App.theme)

    def _take(self, themes: list[Theme], errors: list[SettingsError]) -> None:
        self.errors = errors
        for theme in themes:
            self._app.register_theme(theme)

    def _real(self, name: str) -> str:
        if name != AUTO:
            return name
        return LIGHT if self._dark is False else DARK


def _stamps(folder: Path) -> Stamps:
    found: Stamps = {}
    for path in folder.glob("*.toml"):
        try:
            stat = path.stat()
        except OSError:
            continue
        found[path.name] = (stat.st_mtime_ns, stat.st_size)
    return found
