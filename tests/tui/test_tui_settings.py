"""Settings: what is shown, changed, undone and refused; keys, themes and looks that follow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import colony_data as data
import pytest
from colony_double import ColonyDouble
from keeper_double import KeeperDouble
from screen_driver import app_for, connected, repaint, text_of, until
from textual.pilot import Pilot
from textual.widgets import Input

from rbee.paths import Paths
from rbee.settings import load
from rbee.settings_layers import SECRET, parse
from rbee.tui.app import RbeeApp
from rbee.tui.desk import SettingsDesk
from rbee.tui.glyphs import UNICODE
from rbee.tui.rows_settings import CATEGORIES, RELOADED, applies, as_text, category_of, unit_of
from rbee.tui.rows_settings import shown as shown_value
from rbee.tui.screens.key_capture import CaptureKey
from rbee.tui.screens.settings import Settings
from rbee.tui.screens.theme_chooser import ThemeChooser

anyio = pytest.mark.anyio
Compare = Callable[..., bool]
SIZES = [pytest.param(size, id=f"{size[0]}x{size[1]}") for size in ((80, 24), (160, 45))]


@pytest.fixture
def colony() -> Iterator[ColonyDouble]:
    with ColonyDouble(data.full()) as double:
        yield double


def home_of(tmp_path: Path, text: str = "", ui: str = "") -> Paths:
    paths = Paths.user({"RBEE_HOME": str(tmp_path)})
    paths.config.mkdir(exist_ok=True)
    if text:
        paths.config_file.write_text(text, "utf-8")
    if ui:
        paths.ui_file.write_text(ui, "utf-8")
    return paths


def desk_of(paths: Paths, **env: str) -> SettingsDesk:
    return SettingsDesk(paths, check=RbeeApp.check_keys, env=env)


async def shown(pilot: Pilot[Any], category: str = "") -> Settings:
    app = await connected(pilot)
    await pilot.press("9")
    await until(pilot, lambda: isinstance(app.screen, Settings), "the settings")
    screen = app.screen
    assert isinstance(screen, Settings)
    while category and screen._open != category:
        await pilot.press("down")
        await pilot.pause()
    await pilot.pause()
    return screen


def words(app: RbeeApp) -> str:
    return "\n".join(text_of(app))


def toasts(app: RbeeApp) -> str:
    """What they say, wherever a long path has their lines break."""
    return "\n".join(toast.message for toast in app._notifications)


@anyio
async def test_values_are_changed_told_undone_and_refused(
    colony: ColonyDouble, tmp_path: Path
) -> None:
    paths = home_of(tmp_path, '[tui]\ntheme = "honey-light"\n[worker]\nctx = 2048\n')
    mine = paths.config_file.read_text("utf-8")
    keeper = KeeperDouble(colony.url)
    desk = desk_of(paths, RBEE_WORKER_SLOTS="3")
    app = app_for(colony, desk=desk, keeper=keeper)

    def kept(name: str) -> object:
        found = load(paths=paths, env={}).settings
        section, _, key = name.partition(".")
        return getattr(getattr(found, section), key)

    async with app.run_test(size=(160, 45), notifications=True) as pilot:
        screen = await shown(pilot)
        assert app.theme == "honey-light"
        assert f"value from     {paths.config_file}:2" in words(app)
        assert "overridden by  RBEE_TUI_THEME (unset)" in words(app)

        await pilot.press("enter", "down", "enter")  # density
        await until(pilot, lambda: kept("tui.density") == "roomy", "what was written")
        await until(pilot, lambda: app.has_class("-roomy"), "room")
        await pilot.press("down", "enter")
        await until(pilot, lambda: app.animation_level == "none", "stillness")
        assert len(set(app.glyphs.spinner)) == 1
        await pilot.press("down", "enter", *["backspace"] * 3, "2", ".", "5", "enter")
        await until(pilot, lambda: screen._every == 2.5, "another pace")
        await pilot.press("down", "right")
        await until(pilot, lambda: app.glyphs.spark[-1] == "⣿", "braille")
        await pilot.press("down", "right")
        await until(pilot, lambda: app.has_class("-ascii") and "[Settings" not in words(app))
        await until(pilot, lambda: "* ready" in words(app), "plain characters")
        assert "─" not in words(app)
        assert "saved +" in words(app)
        await pilot.press("u")
        await until(pilot, lambda: not app.glyphs.plain, "the way back")
        assert kept("tui.ascii") is False

        await pilot.press("escape")
        while screen._open != "Workers":
            await pilot.press("down")
        await pilot.press("enter")
        while screen._chosen_name() != "worker.slots":
            await pilot.press("down")
        await until(pilot, lambda: "RBEE_WORKER_SLOTS, which counts" in words(app))
        while screen._chosen_name() != "worker.ctx":
            await pilot.press("down")
        box = app.screen.query_one("#edit", Input)
        await pilot.press("enter")
        await until(pilot, lambda: box.has_focus)
        assert box.value == "2048"
        box.value = "12"
        screen.table.cursor_key = "worker.slots"
        await pilot.press("enter")
        await until(pilot, lambda: "worker.ctx = '12'" in words(app), "why not")
        assert screen._chosen_name() == "worker.ctx", "it is said beside what was refused"
        assert box.has_focus
        assert kept("worker.ctx") == 2048
        box.value = "8192"
        screen.table.cursor_key = "worker.slots"
        await pilot.press("enter")
        await until(pilot, lambda: kept("worker.ctx") == 8192, "what was written")
        await until(pilot, lambda: keeper.reloaded == 1, "the queen to be told")
        await until(pilot, lambda: "the queen has been told to read it" in words(app))
        screen.table.cursor_key = "worker.ctx"
        await pilot.press("r")
        await until(pilot, lambda: kept("worker.ctx") == 2048, "the users value again")
        await pilot.press("Y")
        assert app.clipboard == "rbee config set worker.ctx 2048"
        await pilot.press("slash", *"heart")
        await until(pilot, lambda: [row.key for row in screen.table.rows] == ["worker.heartbeat"])
    assert paths.config_file.read_text("utf-8") == mine


@anyio
async def test_a_key_is_pressed_taken_from_another_and_given_back(
    colony: ColonyDouble, tmp_path: Path
) -> None:
    paths = home_of(tmp_path)
    app = app_for(colony, desk=desk_of(paths))
    async with app.run_test(size=(160, 45)) as pilot:
        screen = await shown(pilot, "Keys")
        await pilot.press("enter")
        screen.table.cursor_key = "worker.stop"
        repaint(app)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, CaptureKey))
        await pilot.press("n")
        await until(pilot, lambda: "worker.new  Start a worker" in words(app), "the clash")
        assert not paths.ui_file.exists()
        await pilot.press("enter")
        await until(pilot, lambda: app.chosen_keys == {"worker.stop": "n", "worker.new": "none"})
        await until(pilot, lambda: "Stop the selected worker" in words(app))
        await pilot.press("1")
        await until(pilot, lambda: app.current_mode == "dashboard")
        await pilot.press("n")
        await until(pilot, lambda: len(app.screen_stack) == 2, "the question")
        await pilot.press("escape", "x")
        assert len(app.screen_stack) == 1
        footer = text_of(app)[-1]
        assert "n stop" in footer
        assert "none" not in footer
        await pilot.press("9", "u")
        await until(pilot, lambda: not app.chosen_keys, "the usual keys")
        await pilot.press("delete")
        await until(pilot, lambda: app.chosen_keys == {"worker.stop": "none"})
        await pilot.press("escape", "enter")
        screen.table.cursor_key = "tui.vim"
        repaint(app)
        await pilot.press("enter")
        await until(pilot, lambda: app.overrides.get("list.half_down"), "the keys of vim")
        before = screen.table._cursor_row()
        await pilot.press("ctrl+d")
        await until(pilot, lambda: (screen.table._cursor_row() or 0) > (before or 0) + 5)


@anyio
async def test_themes_are_shown_while_choosing_and_read_again(
    colony: ColonyDouble, tmp_path: Path
) -> None:
    paths = home_of(tmp_path)
    paths.themes_dir.mkdir()
    own = paths.themes_dir / "mine.toml"
    light = (Path(__file__).parents[2] / "themes" / "honey-light.toml").read_text("utf-8")
    own.write_text(light.replace("honey-light", "mine"), "utf-8")
    env: dict[str, str] = {}
    desk = SettingsDesk(paths, check=RbeeApp.check_keys, env=env)
    app = app_for(colony, desk=desk, themes_folder=paths.themes_dir, dark=False)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        screen = await shown(pilot)
        await pilot.press("enter", "enter")
        await until(pilot, lambda: isinstance(app.screen, ThemeChooser))
        await pilot.press("k")
        await until(pilot, lambda: app.theme == "honey-contrast", "a preview")
        await pilot.press("escape")
        await until(pilot, lambda: app.theme == "honey-dark", "the old colours")
        await pilot.press("ctrl+p", *"theme: clov")
        await until(pilot, lambda: app.theme == "clover", "a preview in the palette")
        await pilot.press("escape")
        await until(pilot, lambda: app.theme == "honey-dark", "the old colours")
        await pilot.press("right", "right")
        await until(pilot, lambda: app.desk.value("tui.theme") == "mine", "the next but one")
        first = app.themes.names()[0]
        app.choose_theme(first)
        await until(pilot, lambda: app.desk.value("tui.theme") == first, "the first")
        await pilot.press("left")
        await until(pilot, lambda: app.desk.value("tui.theme") == "auto", "auto before the first")
        assert app.theme == "honey-light"
        app.choose_theme("mine")
        kept = 'theme = "mine"'
        await until(pilot, lambda: paths.ui_file.exists() and kept in paths.ui_file.read_text())

        own.write_text(own.read_text("utf-8").replace("#FFF9EC", "#ABCDEF"), "utf-8")
        await app.themes.look()
        await until(pilot, lambda: app.current_theme.background == "#ABCDEF", "the new colours")
        await until(pilot, lambda: screen.background_colors[1].hex == "#ABCDEF", "them on screen")
        own.write_text(own.read_text("utf-8").replace("primary =", "primry ="), "utf-8")
        await app.themes.look()
        await until(pilot, lambda: "colors.primry; did you mean" in words(app), "a toast")
        assert app.current_theme.background == "#ABCDEF"
        told = len(app._notifications)
        await app.themes.look()
        assert len(app._notifications) == told, "it is told once"

        env["RBEE_TUI_THEME"] = "mine"
        screen._values.focus()
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ThemeChooser))
        await pilot.press("k", "enter")
        await until(pilot, lambda: "RBEE_TUI_THEME, which counts" in words(app), "what counts")
        assert app.theme == "mine", "no preview stays"


@anyio
async def test_what_cannot_be_is_set_aside_and_files_are_opened(
    colony: ColonyDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = home_of(tmp_path, "[worker]\nctx = 2048\n", ui='[keys]\n"worker.stpo" = "x"\n')
    for name in ("VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)
    app = app_for(colony, desk=desk_of(paths))
    async with app.run_test(size=(160, 45), notifications=True) as pilot:
        screen = await shown(pilot)
        await until(pilot, lambda: "ui.toml is set aside" in words(app), "a toast")
        assert "worker.stpo" in paths.ui_file.with_suffix(".toml.broken").read_text("utf-8")
        app.clear_notifications()
        await pilot.press("o")
        await until(pilot, lambda: "no editor is named by VISUAL or EDITOR" in words(app))
        assert "The file is" in words(app)
        monkeypatch.setenv("VISUAL", "vim 'a")
        await pilot.press("o")
        await until(pilot, lambda: "quotation" in words(app))
        paths.ui_file.write_text("nonsense", "utf-8")
        paths.config_file.write_text("[worker]\nctx = 1024\n", "utf-8")
        app.clear_notifications()
        screen._read_again()
        await until(pilot, lambda: "ui.toml is set aside" in words(app), "a toast")
        assert app.desk.value("worker.ctx") == 1024
        paths.config_file.write_text("[worker]\nctxx = 1\n", "utf-8")
        app.clear_notifications()
        screen._read_again()
        await until(pilot, lambda: "unknown setting worker.ctxx" in toasts(app), "a toast")
        assert app.desk.value("worker.ctx") == 1024, "what was read last stays"


def pictured(
    colony: ColonyDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **kwargs: Any
) -> RbeeApp:
    """An app whose folders have the same names every time."""
    home_of(tmp_path, '[tui]\ntheme = "honey-dark"\ndensity = "compact"\n')
    monkeypatch.chdir(tmp_path)
    there = Paths(*(Path(name) for name in ("config", "data", "state", "cache", "run")))
    return app_for(colony, desk=desk_of(there), **kwargs)


def state(category: str, *keys: str) -> Callable[[Pilot[Any]], Awaitable[None]]:
    async def before(pilot: Pilot[Any]) -> None:
        await shown(pilot, category)
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
        if isinstance(pilot.app.screen, Settings):
            pilot.app.screen.repaint()
        await pilot.pause()

    return before


@pytest.mark.parametrize("size", SIZES)
def test_settings_appearance(
    snap_compare: Compare,
    colony: ColonyDouble,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    size: tuple[int, int],
) -> None:
    app = pictured(colony, monkeypatch, tmp_path)
    assert snap_compare(app, terminal_size=size, run_before=state("Appearance", "enter"))


def test_settings_refused(
    snap_compare: Compare, colony: ColonyDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    app = pictured(colony, monkeypatch, tmp_path)

    async def before(pilot: Pilot[Any]) -> None:
        await state("Queen", "enter", "enter", "x", "enter")(pilot)
        await until(pilot, lambda: "expected" in words(app), "why not")
        app.screen.query_one("#edit", Input).cursor_blink = False

    assert snap_compare(app, terminal_size=(80, 24), run_before=before)


def test_settings_clash(
    snap_compare: Compare, colony: ColonyDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    app = pictured(colony, monkeypatch, tmp_path)

    async def before(pilot: Pilot[Any]) -> None:
        await state("Keys", "enter")(pilot)
        screen = app.screen
        assert isinstance(screen, Settings)
        screen.table.set_filter("worker.stop")
        screen.repaint()
        await pilot.press("enter", "n")
        await until(pilot, lambda: "does already" in words(app), "the clash")

    assert snap_compare(app, terminal_size=(80, 24), run_before=before)


def test_settings_without_colour_and_lines(
    snap_compare: Compare, colony: ColonyDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    home_of(tmp_path, ui="[tui]\nascii = true\n")
    app = pictured(colony, monkeypatch, tmp_path)
    assert snap_compare(app, terminal_size=(80, 24), run_before=state("Appearance", "enter"))


def test_every_setting_has_a_place_a_form_and_a_unit(tmp_path: Path) -> None:
    desk = desk_of(home_of(tmp_path))
    seconds = [name for name, field in desk.fields.items() if unit_of(field) == "s"]
    assert "worker.keep_alive" in seconds
    assert "models.keep_alive" not in seconds
    for name, field in desk.fields.items():
        assert category_of(field) in CATEGORIES
        value = desk.value(name)
        assert parse(field, as_text(value), "here") == value, name
        assert applies(field)
    assert set(desk.fields) >= RELOADED
    secret = next(iter(SECRET))
    assert shown_value(desk.fields[secret], "hunter2", UNICODE) == "(hidden)"
