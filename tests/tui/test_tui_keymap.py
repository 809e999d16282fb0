"""The key registry: every action is bound, does something, and is in the help."""

from __future__ import annotations

from typing import Any

import colony_data as data
import jobs_data
import machine_data
import models_data
import msgspec
import pytest
from colony_double import ColonyDouble
from screen_driver import app_for, connected, until
from screen_states import chat_empty
from test_tui_first_run import added, failed, fresh
from textual.app import App
from textual.pilot import Pilot
from textual.widget import Widget

from rbee.errors import NoWorkers, SettingsError
from rbee.protocol.colony import Snapshot
from rbee.tui import keymap
from rbee.tui.app import RbeeApp
from rbee.tui.screens.chat import Chat
from rbee.tui.screens.overlays import help_sections
from rbee.tui.widgets.prompt import Prompt


def test_ids_are_unique_and_keys_do_not_clash_in_a_scope() -> None:
    assert len(keymap.BY_ID) == len(keymap.ACTIONS)
    for scope in {action.scope for action in keymap.ACTIONS}:
        keys = [k for a in keymap.ACTIONS if a.scope == scope for k in a.keys.split(",")]
        assert len(keys) == len(set(keys)), scope


def test_nothing_sits_on_keys_that_terminals_need() -> None:
    taken = {key for action in keymap.ACTIONS for key in action.keys.split(",")}
    assert not taken & {"ctrl+b", "ctrl+z", "ctrl+c"}


def test_nine_modes_have_the_nine_digits() -> None:
    assert [mode.name for mode in keymap.MODES] == [
        "dashboard",
        "hives",
        "workers",
        "models",
        "jobs",
        "chat",
        "logs",
        "code",
        "settings",
    ]
    for number, mode in enumerate(keymap.MODES, 1):
        assert keymap.BY_ID[f"screen.{mode.name}"].keys == str(number)
        assert mode.name in RbeeApp.MODES


def test_every_action_is_in_the_help() -> None:
    shown = [action.id for _, actions in help_sections(["dashboard"]) for action in actions]
    assert sorted(shown) == sorted(action.id for action in keymap.ACTIONS)
    assert help_sections(["chat", "prompt"])[0][0] == "Chat"


def test_every_function_key_has_a_twin_in_the_palette() -> None:
    for action in keymap.ACTIONS:
        keys = action.keys.split(",")
        if all(key.startswith("f") and key[1:].isdigit() for key in keys):
            assert action.palette or action.method == "app.help", action.id


@pytest.mark.anyio
async def test_every_action_is_reachable() -> None:
    """With the right panel focused each action is an active binding whose method exists."""
    missing = {action.id for action in keymap.ACTIONS}
    snapshots = {"full": data.full(), "lonely": data.lonely()}
    for name, snapshot in snapshots.items():
        with ColonyDouble(snapshot) as double:
            async with app_for(double).run_test(size=(160, 45)) as pilot:
                app = await connected(pilot)
                for mode in keymap.MODES:
                    if mode.name == "chat":
                        continue
                    await show_mode(pilot, mode.name)
                    for _ in range(6 if name == "full" else 1):
                        missing -= reachable(app)
                        await pilot.press("tab")
                await chat_empty(pilot)
                missing -= reachable(app)
                await pilot.press("/")
                missing -= reachable(app)
                await pilot.press("escape")
                missing -= reachable(app)
                await pilot.press("f4")
                missing -= reachable(app)
    with ColonyDouble(machine_data.full()) as double:
        async with app_for(double).run_test(size=(160, 45)) as pilot:
            app = await connected(pilot)
            await show_mode(pilot, "hives")
            for _ in machine_data.machines():
                missing -= reachable(app)
                await pilot.press("j")
    with ColonyDouble(first_run(), script=failed()) as double:
        async with app_for(double).run_test(size=(160, 45)) as pilot:
            app = await connected(pilot)
            missing -= reachable(app)
            await pilot.press("i")
            await until(pilot, lambda: "welcome.again" in reachable(app), "a failure")
            app.toast(NoWorkers("none"))
            missing -= reachable(app)
    with ColonyDouble(models_data.snapshot()) as double:
        models_data.furnish(double)
        async with app_for(double).run_test(size=(160, 45)) as pilot:
            app = await connected(pilot)
            await show_mode(pilot, "models")
            missing -= reachable(app)
            double.decisions = jobs_data.why_given().decisions
            await show_mode(pilot, "code")
            await until(pilot, lambda: "code.why" in reachable(app), "a decision")
            await show_mode(pilot, "settings")
            await pilot.press("down")
            await until(pilot, lambda: "settings.unbind" in reachable(app), "the keys")
    assert not missing - {"code.why", "settings.unbind"}


def first_run() -> Snapshot:
    """This machine, and one that was added."""
    snapshot = fresh()
    return msgspec.structs.replace(snapshot, hives=[*snapshot.hives, added()])


async def show_mode(pilot: Pilot[Any], name: str) -> None:
    app = pilot.app
    assert isinstance(app, RbeeApp)
    app.action_mode(name)
    await until(pilot, lambda: app.current_mode == name)
    await pilot.pause()


def reachable(app: RbeeApp) -> set[str]:
    found: set[str] = set()
    for entry in app.screen.active_bindings.values():
        id_ = entry.binding.id
        if id_ not in keymap.BY_ID:
            continue
        name = entry.binding.action.partition("(")[0]
        spaces = {"app": app, "screen": app.screen}
        node = spaces.get(name.rpartition(".")[0], entry.node)
        assert isinstance(node, App | Widget)
        assert hasattr(node, f"action_{name.rpartition('.')[2]}"), entry.binding.action
        found.add(id_)
    return found


@pytest.mark.anyio
async def test_typing_in_chat_never_triggers_a_key() -> None:
    typed = "".join(chr(code) for code in range(33, 127))
    with ColonyDouble(data.full()) as double:
        async with app_for(double).run_test(size=(80, 24)) as pilot:
            await chat_empty(pilot)
            app = pilot.app
            for character in typed:
                await pilot.press(character)
            assert app.current_mode == "chat"
            assert isinstance(app.screen, Chat)
            assert app.screen.query_one(Prompt).text == typed
            assert not double.submitted


@pytest.mark.anyio
async def test_a_users_key_replaces_ours() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double, keys={"worker.stop": "ctrl+g"})
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            await pilot.press("x")
            assert len(app.screen_stack) == 1
            await pilot.press("ctrl+g")
            await until(pilot, lambda: len(app.screen_stack) == 2)


def test_an_unknown_id_is_named() -> None:
    with pytest.raises(SettingsError, match=r"worker\.stop"):
        app_for(None, keys={"worker.stpo": "x"})


@pytest.mark.parametrize(
    ("keys", "text"),
    [("ctrl+o", "^o"), ("question_mark,f1", "?"), ("escape", "esc"), ("slash", "/"), ("f2", "f2")],
)
def test_key_text(keys: str, text: str) -> None:
    assert keymap.key_text(keys) == text
