"""Commands that need no queen: settings, paths, logs."""

from __future__ import annotations

import json
import os
import signal
import stat
import tomllib
from pathlib import Path

import pytest

from rbee import settings
from rbee.paths import Paths
from tests.support.home import Home, wait_for


def test_show_prints_every_setting_and_its_origin(home: Home) -> None:
    body = json.loads(home.rbee("config", "show", "--json").stdout)["settings"]
    assert set(body) == {field.name for field in settings.fields()}
    assert body["queen.port"] == {"value": 0, "origin": "RBEE_QUEEN_PORT"}
    assert body["queen.linger"] == {"value": 300.0, "origin": "default"}
    table = home.rbee("config", "show").stdout.splitlines()
    assert table[0].split() == ["SETTING", "VALUE", "FROM"]
    assert len(table) == len(body) + 1


def test_keys_are_shown_with_their_line(home: Home) -> None:
    write_settings(home, '[keys]\nquit = "ctrl+x"\n')
    body = json.loads(home.rbee("config", "show", "--json").stdout)["settings"]
    file = home.path / "config" / "config.toml"
    assert body["keys.quit"] == {"value": "ctrl+x", "origin": f"{file}:2"}


def test_init_writes_once_and_for_its_owner_only(home: Home) -> None:
    assert home.rbee("config", "init").returncode == 0
    file = home.path / "config" / "config.toml"
    assert tomllib.loads(file.read_text("utf-8")) == {
        name: {} for name in (*settings.SECTIONS, "keys")
    }
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text("[queen]\nlinger = 1.0\n", "utf-8")
    again = home.rbee("config", "init")
    assert (again.returncode, "CONFLICT" in again.stderr) == (1, True)
    assert file.read_text("utf-8") == "[queen]\nlinger = 1.0\n"


def test_paths_of_the_machine_are_not_the_users(home: Home) -> None:
    mine = json.loads(home.rbee("config", "paths", "--json").stdout)
    machine = json.loads(home.rbee("config", "paths", "--system", "--json").stdout)
    assert mine["config_file"] == str(home.path / "config" / "config.toml")
    assert machine["config_file"] == str(Paths.system().config_file)
    assert not set(mine.values()) & set(machine.values())


def test_a_bad_setting_is_told_as_json_too(home: Home) -> None:
    write_settings(home, "[queen]\nprot = 1\n")
    done = home.rbee("config", "show", "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "SETTINGS_ERROR"
    assert error["details"]["nearest"] == "queen.port"


def test_a_flag_out_of_bounds_is_a_settings_error(home: Home) -> None:
    done = home.rbee("--no-tui", "--port", "70000")
    assert done.returncode == 2
    assert "--port: queen.port = '70000'" in done.stderr


def test_logs_without_a_log(home: Home) -> None:
    done = home.rbee("queen", "logs")
    assert done.returncode == 1
    assert "queen.log" in done.stderr


@pytest.mark.parametrize(("lines", "shown"), [("2", "two\nthree\n"), ("0", ""), ("9", None)])
def test_logs_show_the_end(home: Home, lines: str, shown: str | None) -> None:
    write_log(home, "one\ntwo\nthree")
    done = home.rbee("queen", "logs", "--lines", lines)
    assert done.stdout == ("one\ntwo\nthree\n" if shown is None else shown)


def test_logs_follow_whole_lines_until_ctrl_c(home: Home) -> None:
    log = write_log(home, "one\nbeg")
    process = home.start("queen", "logs", "--follow")
    wait_for(lambda: home.out(process) == "one\n", what="the line that is whole")
    with log.open("a", encoding="utf-8") as out:
        out.write("un\n\x1b[31mred\n")
    wait_for(lambda: home.out(process) == "one\nbegun\n[31mred\n", what="what was added")
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130


def test_the_machines_settings_are_under_the_users(tmp_path: Path) -> None:
    mine, machine = tmp_path / "config.toml", tmp_path / "machine.toml"
    mine.write_text("[queen]\nlinger = 1.0\n", "utf-8")
    machine.write_text("[queen]\nlinger = 2.0\nqueue_capacity = 5\n", "utf-8")
    where = Paths(*[tmp_path] * 5, machine_config=machine)
    loaded = settings.load(paths=where, env={})
    assert (loaded.settings.queen.linger, loaded.settings.queen.queue_capacity) == (1.0, 5)
    assert loaded.origins["queen.queue_capacity"] == f"{machine}:3"


def write_settings(home: Home, text: str) -> None:
    (home.path / "config").mkdir(exist_ok=True)
    (home.path / "config" / "config.toml").write_text(text, "utf-8")


def write_log(home: Home, text: str) -> Path:
    log = home.path / "state" / "logs" / "queen.log"
    os.makedirs(log.parent)
    log.write_text(text, "utf-8")
    return log


def test_settings_are_set_beside_the_users_file(home: Home) -> None:
    write_settings(home, "[tui]\ntheme = 'honey-light'\n")
    written = home.rbee("config", "set", "tui.theme", "clover")
    assert written.returncode == 0, written.stderr
    assert "ui.toml" in written.stderr
    assert home.rbee("config", "get", "tui.theme").stdout == "clover\n"
    shown = json.loads(home.rbee("config", "get", "tui.theme", "--json").stdout)
    assert shown["origin"] == f"{home.path / 'config' / 'ui.toml'}:4"
    beaten = home.rbee("config", "set", "queen.port", "1234")
    assert "RBEE_QUEEN_PORT comes before it" in beaten.stderr
    assert home.rbee("config", "set", "tui.them", "x").returncode == 2
    assert "config.toml:2" in home.rbee("config", "unset", "tui.theme").stderr
    assert home.rbee("config", "get", "tui.theme").stdout == "honey-light\n"
