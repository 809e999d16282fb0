"""Settings: every value, where it comes from, what overrides it; changed in place, kept in ui.toml.

Reads and writes through the app's SettingsDesk, in threads. What `config.toml` holds is shown and
opened in the user's editor, never written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

import anyio.to_thread
from textual import on
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Input

from rbee.errors import RbeeError
from rbee.paths import make_private
from rbee.settings_layers import SECRET, Field
from rbee.tui import key_choices, keymap
from rbee.tui.rows_settings import (
    CATEGORIES,
    COLUMNS,
    KEY_COLUMNS,
    RELOADED,
    about_facts,
    about_lines,
    applies,
    as_text,
    at_home,
    category_of,
    choices_of,
    detail_lines,
    key_rows,
    preview_lines,
    setting_as_key,
    setting_rows,
)
from rbee.tui.screens.filtering import FilteredScreen
from rbee.tui.screens.key_capture import Captured, CaptureKey
from rbee.tui.screens.listing import set_subtitle, set_title
from rbee.tui.screens.theme_chooser import ThemeChooser
from rbee.tui.shell import open_editor
from rbee.tui.theme_shelf import AUTO
from rbee.tui.widgets.lines import Line, Lines
from rbee.tui.widgets.table import Column, Row, RowTable

_CATEGORY = (Column("name", "", 12, grow=True),)
_NEEDS_ROW = frozenset({"change", "filter"})


class FieldTable(RowTable):
    """Settings, whose values turn with the arrow keys."""

    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings("fields")


class Settings(FilteredScreen[RowTable]):
    """Mode 9."""

    MODE = "settings"
    HELP_SCOPES = ("settings", "fields", "lists")
    AUTO_FOCUS = "#categories"
    BINDINGS: ClassVar[list[BindingType]] = [
        *keymap.bindings("settings"),
        *keymap.bindings("dashboard", only=("list.filter",)),
    ]

    def body(self) -> Iterable[Widget]:
        glyphs = self.rbee.glyphs
        self._categories = RowTable(
            "Settings", _CATEGORY, glyphs=glyphs, heading=False, marks=False, id="categories"
        )
        self._categories.set_rows([Row(name, {"name": (name, "text")}) for name in CATEGORIES])
        self._values = FieldTable("", COLUMNS, glyphs=glyphs, marks=False, id="values")
        self._keys = RowTable("Keys", KEY_COLUMNS, glyphs=glyphs, marks=False, id="keys")
        self._about = Lines("About", id="about")
        self._detail = Lines(id="meaning")
        self._detail.can_focus = False
        self._edit = Input(id="edit", compact=True)
        self.table = self._values
        self._open = CATEGORIES[0]
        self._error = self._note = self._editing = ""
        self._saved = False
        self._offered: object = None
        self._drawn: tuple[object, ...] = ()
        right = Vertical(
            self._values, self._keys, self._about, self.search_box(), self._edit, self._detail,
            id="chosen",
        )  # fmt: skip
        return [Horizontal(self._categories, right, id="settings")]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that have nothing to act on are not offered."""
        if not self.is_mounted or not self.children:
            return False
        name = self._chosen_name()
        if action == "undo":
            return self.rbee.desk.can_undo or None
        if action == "reset":
            return (name is not None and self.rbee.desk.written_here(name)) or None
        if action == "unbind":
            return self._open == "Keys" and self.table.current is not None
        return self._open != "About" if action in _NEEDS_ROW else True

    def on_screen_resume(self) -> None:
        self._saved, self._note, self._error = False, "", ""
        self._read_again()
        super().on_screen_resume()

    def show(self) -> None:
        """The category under the cursor, and what is to be known of one value."""
        desk, glyphs = self.rbee.desk, self.rbee.glyphs
        if self._open == "Keys":
            rows = setting_rows(desk, "Keys", glyphs)
            found = key_rows(keymap.ACTIONS, self.rbee.overrides, desk)
            self._keys.set_rows([*(setting_as_key(row) for row in rows), *found])
        elif self._open == "About":
            facts, width = about_facts(desk, self.rbee.store), self.query_one("#chosen").size.width
            self._about.set_lines(about_lines(facts, glyphs, width - 3))
        else:
            self._values.set_rows(setting_rows(desk, self._open, glyphs))
        self.changed()

    def changed(self) -> None:
        """The right side follows the cursor on the left, the words below it that on the right."""
        row = self._categories.current
        if row is not None and row.key != self._open:
            self._turn_to(row.key)
            return
        desk = self.rbee.desk
        self._detail.display = self._open != "About"
        field = self._field()
        glyphs = self.rbee.glyphs
        state = (
            self._chosen_name(), desk.loaded, self._detail.size, self._error, self._note,
            self._open, glyphs.bar, glyphs.spark, self.rbee.themes.chosen,
        )  # fmt: skip
        if state != self._drawn:
            self._drawn = state
            self._detail.set_lines(self._words(field, max(20, self._detail.size.width)))
            set_title(self.table if self._open != "About" else self._about, self._open)
            set_title(self._detail, self._chosen_name() or "")
        self._subtitle()
        offered = (self._chosen_name(), desk.can_undo, desk.loaded, self._open)
        if offered != self._offered:
            self._offered = offered
            self.refresh_bindings()

    def action_open_row(self) -> None:
        """To the values, or change the one under the cursor."""
        self.action_change()

    def action_change(self) -> None:
        """To the values; there: turn the value, choose it, type it, or press its key."""
        if self.focused is self._categories:
            (self._about if self._open == "About" else self.table).focus()
            return
        name, field = self._chosen_name(), self._field()
        if name is None:
            return
        if field is None:
            self._capture(keymap.BY_ID[name.removeprefix("keys.")])
        elif field.name == "tui.theme":
            self.rbee.push_screen(ThemeChooser(), self._theme_taken)
        elif choices_of(field):
            self.action_turn(1)
        else:
            self._begin(field)

    def action_turn(self, step: int) -> None:
        """The next choice, or the one before."""
        field = self._field()
        if field is None:
            return
        theme = field.name == "tui.theme"
        choices = [AUTO, *self.rbee.themes.names()] if theme else choices_of(field)
        now = as_text(self.rbee.desk.value(field.name))
        if choices:
            at = choices.index(now) if now in choices else -step
            self._save(field.name, choices[(at + step) % len(choices)])

    def action_undo(self) -> None:
        """Take the last change back."""
        self._run(self.rbee.desk.undo, "undone")

    def action_reset(self) -> None:
        """Take the value out of `ui.toml`: config.toml's counts again, or the default."""
        name = self._chosen_name()
        if name is None:
            return
        if name.startswith("keys."):
            self._run(
                partial(self.rbee.desk.write_keys, {name.removeprefix("keys."): None}), "reset"
            )
        else:
            self._save(name, None)

    def action_unbind(self) -> None:
        """The action under the cursor has no key any more."""
        name = self._chosen_name()
        if self._field() is None and name is not None:
            id_ = name.removeprefix("keys.")
            self._run(partial(self.rbee.desk.write_keys, {id_: key_choices.NONE}))

    def action_open_file(self) -> None:
        """The file where the value stands, in the user's editor; else `config.toml`."""
        self.rbee.run_worker(self._open_file(), exit_on_error=True)

    def back(self) -> bool:
        """Leave the box, the filter, the values."""
        if self._edit.display:
            self._edit.display = False
            self._error = ""
            self.table.focus()
        elif self.leave_filter():
            self.table.focus()
        elif self.focused is not self._categories:
            self._categories.focus()
        else:
            return False
        self.changed()
        return True

    async def _open_file(self) -> None:
        desk, name = self.rbee.desk, self._chosen_name()
        file, _, line = desk.origin(name or "").rpartition(":")
        known = str(desk.paths.config), str(desk.paths.machine_config or "-")
        stands = file.startswith(known) and line.isdigit()
        path = desk.paths.config_file if not stands else type(desk.paths.config_file)(file)
        try:
            await anyio.to_thread.run_sync(make_private, desk.paths.config)
            await open_editor(self.rbee, path, int(line) if stands else None)
        except RbeeError as exc:
            self.rbee.toast(exc)
            return
        self._read_again()

    def _read_again(self) -> None:
        self._run(self.rbee.desk.read, told="")

    def _begin(self, field: Field) -> None:
        self._editing = field.name
        self._edit.password = field.name in SECRET
        self._edit.value = as_text(self.rbee.desk.value(field.name))
        self._edit.placeholder = field.description
        self._edit.display = True
        self._edit.focus()

    @on(Input.Submitted, "#edit")
    def _typed(self, event: Input.Submitted) -> None:
        self._save(self._editing, event.value.strip())

    def _theme_taken(self, name: str | None) -> None:
        if name is not None:
            self._save("tui.theme", name)

    def _capture(self, action: keymap.Action) -> None:
        def clashes(key: str) -> list[keymap.Action]:
            found = key_choices.clashes(
                action.id, key, self.rbee.chosen_keys, self.rbee.key_groups()
            )
            return [other for other, _ in found]

        def taken(answer: Captured | None) -> None:
            if answer is None:
                return
            changes: dict[str, str | None] = {action.id: answer.key}
            for other in answer.others:
                keys = self.rbee.chosen_keys.get(other.id, other.keys).split(",")
                left = [key for key in keys if key != answer.key]
                changes[other.id] = ",".join(left) or key_choices.NONE
            self._run(partial(self.rbee.desk.write_keys, changes))

        self.rbee.push_screen(CaptureKey(action, clashes), taken)

    def _save(self, name: str, text: str | None) -> None:
        self._run(
            partial(self.rbee.desk.write, name, text), "reset" if text is None else "saved", name
        )

    def _run(self, act: Callable[[], Any], told: str = "saved", name: str = "") -> None:
        self.run_worker(self._done(act, told, name), group="desk", exit_on_error=True)

    async def _done(self, act: Callable[[], Any], told: str, name: str) -> None:
        """Do it in a thread, then have it count; what is wrong is said beside the value."""
        desk, before = self.rbee.desk, self.rbee.desk.loaded
        try:
            await desk.run(act)
            self.rbee.apply_settings()
        except RbeeError as exc:
            self._error = self._beside(exc, name) if told else ""
            if self._edit.display and name == self._editing:
                self.table.select(name)
            if not told:
                self.rbee.toast(exc)
            self.changed()
            return
        finally:
            if name == "tui.theme":
                self.rbee.themes.preview(None)
        self._error = ""
        if told:
            self._saved, self._note = True, self._when_it_counts(name, told)
            if self._edit.display:
                self._edit.display = False
                self.table.focus()
        if desk.problem is not None and desk.loaded is not before:
            self.rbee.toast(desk.problem)
            desk.problem = None
        if self.rbee.screen is self:
            self.repaint()

    def _beside(self, error: RbeeError, name: str) -> str:
        """Without what stands there anyhow: which setting it is, and what it means."""
        field = self.rbee.desk.fields.get(name)
        told = error.message.removeprefix("rbee config set: ")
        if field is not None and error.action.startswith(field.description):
            return told
        return f"{told}. {error.action}"

    def _when_it_counts(self, name: str, told: str) -> str:
        field = self.rbee.desk.fields.get(name)
        if field is None or field.section == "tui":
            return f"{told}, at once"
        if name in RELOADED:
            if self.rbee.keeper.reload():
                return f"{told}; the queen has been told to read it"
            return f"{told}; the queen takes it over when she is started again"
        return f"{told}; {applies(field)}"

    def _turn_to(self, category: str) -> None:
        self._open, self._error, self._note = category, "", ""
        if self._edit.display:
            self._edit.display = False
        self.leave_filter()
        self.table = self._keys if category == "Keys" else self._values
        for widget, shown in (
            (self._values, category not in ("Keys", "About")),
            (self._keys, category == "Keys"),
            (self._about, category == "About"),
        ):
            widget.display = shown
        self._values.cursor_key = None
        self._drawn = ()
        self.show()

    def _chosen_name(self) -> str | None:
        """The setting under the cursor: `tui.theme` or `keys.worker.stop`."""
        row = self.table.current if self._open != "About" else None
        if row is None:
            return None
        return row.key if row.key in self.rbee.desk.fields else f"keys.{row.key}"

    def _field(self) -> Field | None:
        return self.rbee.desk.fields.get(self._chosen_name() or "")

    def _words(self, field: Field | None, width: int) -> list[Line]:
        desk, name = self.rbee.desk, self._chosen_name()
        if field is not None:
            lines = detail_lines(desk, field, width, error=self._error, note=self._note)
            if category_of(field) == "Appearance":
                lines += [(), *preview_lines(self.rbee.glyphs, width)]
            return lines
        if name is None:
            return []
        action = keymap.BY_ID[name.removeprefix("keys.")]
        lines = [((f" {self._error}", "bad"),)] if self._error else []
        lines += [((f" {action.help}", "text"),)]
        usual = keymap.all_keys_text(action.keys)
        origin = desk.origin(name)
        lines += [
            ((" usually        ", "muted"), (usual, "key")),
            ((" value from     ", "muted"), (at_home(origin), "text")),
            ((" takes effect   ", "muted"), (self._note or "at once", "text")),
        ]
        return lines

    def _subtitle(self) -> None:
        shown = self._about if self._open == "About" else self.table
        dot, done = self.rbee.glyphs.dot, self.rbee.glyphs.done
        words: list[str] = [f"saved {done}"] if self._saved else []
        if self.table.needle and shown is self.table:
            words.append(f"/{self.table.needle}: {len(self.table.rows)}")
        words += ["u undo"] if self.rbee.desk.can_undo else []
        set_subtitle(shown, Content(f" {dot} ".join([*words, "o open file"])))
