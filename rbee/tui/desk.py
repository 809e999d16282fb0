"""SettingsDesk: the settings as the screens read and change them, with a way back.

Owns the last reading of all layers and what was changed since the start; writes `ui.toml` through
rbee.settings_file and nothing else. Its methods read and write files: the screens call them
through `run`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from rbee.errors import RbeeError, SettingsError
from rbee.paths import Paths
from rbee.settings import Loaded, Settings, fields, load
from rbee.settings_file import read_file, set_aside, write_entries, write_value
from rbee.settings_layers import Field

T = TypeVar("T")
Check = Callable[[Mapping[str, str]], object]


@dataclass(frozen=True)
class Undoable:
    """What stood in `ui.toml` before a change, by name; None: nothing did."""

    before: Mapping[str, Any]

    @property
    def names(self) -> str:
        """`tui.theme`"""
        return ", ".join(self.before)


class SettingsDesk:
    """`check` raises SettingsError for keys that cannot be. Raises SettingsError at once where the
    user's own files or variables are wrong; a wrong `ui.toml` is set aside, and is `problem`."""

    def __init__(
        self,
        paths: Paths,
        *,
        check: Check,
        env: Mapping[str, str] = os.environ,
        flags: Mapping[str, str] | None = None,
    ) -> None:
        self.paths = paths
        self._check = check
        self._env = env
        self._flags = dict(flags or {})
        self._done: list[Undoable] = []
        self._turn = anyio.Lock()
        self.fields: dict[str, Field] = {field.name: field for field in fields()}
        self.problem: SettingsError | None = None
        self.loaded: Loaded
        self.read()

    @property
    def settings(self) -> Settings:
        """As last read."""
        return self.loaded.settings

    @property
    def can_undo(self) -> bool:
        """Whether something was changed here."""
        return bool(self._done)

    async def run(self, act: Callable[[], T]) -> T:
        """One of the methods that read and write files, in a thread; in the order of the calls."""
        async with self._turn:
            return await anyio.to_thread.run_sync(act)

    def value(self, name: str) -> Any:
        """Of `tui.theme`."""
        field = self.fields[name]
        return getattr(getattr(self.settings, field.section), field.key)

    def origin(self, name: str) -> str:
        """`default`, file:line, a variable or a flag; of `keys.worker.stop` too."""
        return self.loaded.origins.get(name, "default")

    def written_here(self, name: str) -> bool:
        """Whether its value is that of `ui.toml`."""
        return self.origin(name).startswith(f"{self.paths.ui_file}:")

    def stronger(self, name: str) -> str:
        """The variable or flag that comes before `ui.toml`; empty: none is set."""
        origin = self.origin(name)
        return origin if origin.startswith(("RBEE_", "--")) else ""

    def read(self) -> None:
        """All layers again."""
        loaded = load(paths=self.paths, env=self._env, flags=self._flags)
        problem = loaded.problem
        if problem is None:
            try:
                self._check(loaded.settings.keys)
            except SettingsError as exc:
                if not any(name.startswith("keys.") for name in _held(self.paths)):
                    raise
                problem = exc
        if problem is not None:
            aside = set_aside(self.paths)
            self.problem = SettingsError(
                f"ui.toml is set aside: {problem.message}",
                action=f"{problem.action} What it held is in {aside}.",
            )
            loaded = load(paths=self.paths, env=self._env, flags=self._flags)
            self._check(loaded.settings.keys)
        self.loaded = loaded

    def write(self, name: str, text: str | None) -> None:
        """Set one from text, or take it out of `ui.toml`. Raises SettingsError and changes nothing
        when it cannot be."""
        before = Undoable({name: read_file(self.paths.ui_file).get(name)})
        write_value(self.paths, name, text)
        self._done.append(before)
        self.read()

    def write_keys(self, keys: Mapping[str, str | None]) -> None:
        """Set keys by the action's id, or take them out. Raises SettingsError as `check` does."""
        held = read_file(self.paths.ui_file)
        changes = {f"keys.{id_}": text for id_, text in keys.items()}
        wanted = dict(self.settings.keys)
        wanted |= {id_: text for id_, text in keys.items() if text is not None}
        self._check({id_: text for id_, text in wanted.items() if keys.get(id_, "") is not None})
        write_entries(self.paths, changes)
        self._done.append(Undoable({name: held.get(name) for name in changes}))
        self.read()

    def undo(self) -> Undoable | None:
        """Take back the last change; what it was, or None."""
        if not self._done:
            return None
        last = self._done[-1]
        write_entries(self.paths, dict(last.before))
        self._done.pop()
        self.read()
        return last


def _held(paths: Paths) -> Mapping[str, Any]:
    try:
        return read_file(paths.ui_file)
    except RbeeError:
        return {}
