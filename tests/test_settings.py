"""Settings: layers, places, and errors that name the nearest known key."""

from __future__ import annotations

import errno
import os
import tomllib
from pathlib import Path

import pytest

from rbee.access.keys import Keys
from rbee.errors import Forbidden, InternalError, SettingsError
from rbee.paths import Paths
from rbee.protocol.access import NewKey
from rbee.settings import Settings, fields, load
from rbee.settings_file import read_file, set_aside, write_entries, write_value
from rbee.settings_text import default_toml


def paths(tmp_path: Path, text: str = "") -> Paths:
    where = Paths.user({"RBEE_HOME": str(tmp_path)})
    where.config.mkdir()
    if text:
        where.config_file.write_text(text, "utf-8")
    return where


def test_flag_before_environment_before_file_before_default(tmp_path: Path) -> None:
    where = paths(tmp_path, "[queen]\nport = 1001\nlinger = 7\n\n[worker]\nctx = 512\n")
    env = {"RBEE_QUEEN_PORT": "1002", "RBEE_WORKER_CTX": "1024"}
    loaded = load(paths=where, env=env, flags={"queen.port": "1003"})
    assert loaded.settings.queen.port == 1003
    assert loaded.settings.worker.ctx == 1024
    assert loaded.settings.queen.linger == 7
    assert loaded.settings.queen.host == "127.0.0.1"
    assert loaded.origins["queen.port"] == "--port"
    assert loaded.origins["worker.ctx"] == "RBEE_WORKER_CTX"
    assert loaded.origins["queen.linger"] == f"{where.config_file}:3"
    assert loaded.origins["queen.host"] == "default"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[queen]\nprot = 1", "queen.port"),
        ("[qeen]\nport = 1", "queen"),
        ("[queen]\nport = 'x'", "port"),
        ("[queen]\nport = 70000", "port"),
        ("[queen]\nport = ", "config.toml:2"),
        ("[worker]\nctx = 1", "ctx"),
        ("[worker]\nheartbeat = 60", "stale_after"),
        ("queen = 1", "[queen]"),
        ("[keys]\nx = 1", "keys"),
    ],
)
def test_a_bad_file_is_an_error_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    where = paths(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load(paths=where, env={})
    said = f"{caught.value.message} {caught.value.action}"
    assert told in said
    assert "config.toml" in said or "default" in said


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("RBEE_QUEEN_PRT", "1", "RBEE_QUEEN_PORT"),
        ("RBEE_QUEEN_PORT", "eight", "RBEE_QUEEN_PORT"),
        ("RBEE_QUEEN_LOCAL_HIVE", "perhaps", "RBEE_QUEEN_LOCAL_HIVE"),
    ],
)
def test_a_bad_variable_is_an_error_that_names_it(
    tmp_path: Path, name: str, value: str, told: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(paths=paths(tmp_path), env={name: value})
    assert told in f"{caught.value.message} {caught.value.action}"


def test_the_written_defaults_are_the_defaults(tmp_path: Path) -> None:
    text = default_toml()
    tomllib.loads(text)
    live = "\n".join(
        line.removeprefix("# ") if " = " in line and line.startswith("# ") else line
        for line in text.splitlines()
        if not line.startswith("# Keys") and "`" not in line
    )
    where = paths(tmp_path, live)
    assert load(paths=where, env={}).settings == load(paths=where, env={}).settings
    assert load(paths=where, env={}).settings == Settings()
    for field in fields():
        assert field.description
        assert f"{field.key}" in text


def test_home_must_be_absolute() -> None:
    with pytest.raises(SettingsError, match="RBEE_HOME"):
        Paths.user({"RBEE_HOME": "relative"})


def test_folders_are_private(tmp_path: Path) -> None:
    where = Paths.user({"RBEE_HOME": str(tmp_path / "home")})
    where.ensure()
    assert where.state.stat().st_mode & 0o777 == 0o700
    assert where.logs_dir.is_dir()


def test_what_the_screen_wrote_is_between_the_users_file_and_the_environment(
    tmp_path: Path,
) -> None:
    where = paths(tmp_path, "[queen]\nport = 1001\nlinger = 7\n[keys]\n'worker.stop' = 'k'\n")
    kept = where.config_file.read_text("utf-8")
    assert write_value(where, "queen.port", "1002") == 1002
    write_value(where, "worker.ctx", "512")
    write_value(where, "queen.allowed_origins", "https://a:1,https://b:2")
    write_entries(where, {"keys.worker.stop": "x,delete"})
    loaded = load(paths=where, env={"RBEE_WORKER_CTX": "1024"})
    assert loaded.problem is None
    assert (loaded.settings.queen.port, loaded.settings.queen.linger) == (1002, 7)
    assert loaded.origins["queen.port"] == f"{where.ui_file}:4"
    assert loaded.settings.worker.ctx == 1024
    assert loaded.settings.keys == {"worker.stop": "x,delete"}
    assert loaded.settings.queen.allowed_origins == ["https://a:1", "https://b:2"]
    assert where.ui_file.stat().st_mode & 0o777 == 0o600
    assert where.config_file.read_text("utf-8") == kept
    write_value(where, "queen.port", None)
    assert load(paths=where, env={}).settings.queen.port == 1001


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("queen.prot", "1", "queen.port"),
        ("queen.port", "70000", "<= 65535"),
        ("tui.refresh", "0", "0.2"),
        ("tui.graphs", "dots", "graphs"),
    ],
)
def test_nothing_wrong_is_written(tmp_path: Path, name: str, text: str, told: str) -> None:
    where = paths(tmp_path)
    with pytest.raises(SettingsError) as caught:
        write_value(where, name, text)
    assert told in f"{caught.value.message} {caught.value.action}"
    assert not where.ui_file.exists()


def test_a_value_that_does_not_go_with_the_others_is_not_kept(tmp_path: Path) -> None:
    where = paths(tmp_path)
    write_value(where, "worker.heartbeat", "3")
    with pytest.raises(SettingsError, match=r"worker\.stale_after"):
        write_value(where, "worker.heartbeat", "60")
    assert load(paths=where, env={}).settings.worker.heartbeat == 3


def test_a_users_file_that_is_wrong_keeps_a_value_from_being_written(tmp_path: Path) -> None:
    where = paths(tmp_path)
    write_value(where, "worker.heartbeat", "3")
    where.config_file.write_text("[queen]\nprot = 7\n", "utf-8")
    for text in ("2", None):
        with pytest.raises(SettingsError, match=r"config\.toml:2"):
            write_value(where, "worker.heartbeat", text)
        assert read_file(where.ui_file) == {"worker.heartbeat": 3.0}


def test_a_disk_that_takes_nothing_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = paths(tmp_path)
    write_value(where, "worker.heartbeat", "3")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Forbidden, match="No space left"):
        write_value(where, "worker.heartbeat", "2")
    with pytest.raises(InternalError, match="No space left"):
        Keys(where.config / "keys.json").create(NewKey(name="anna"), 0.0)
    assert load(paths=where, env={}).settings.worker.heartbeat == 3
    assert os.listdir(where.config) == ["ui.toml"]


@pytest.mark.parametrize(
    "text",
    ["[queen", "[queen]\nprot = 1", "[queen]\nport = 'x'", "[worker]\nheartbeat = 60", "\xff"],
)
def test_a_broken_file_of_the_screens_is_left_out_and_told(tmp_path: Path, text: str) -> None:
    where = paths(tmp_path, "[queen]\nlinger = 7\n")
    where.ui_file.write_bytes(text.encode("latin-1"))
    loaded = load(paths=where, env={})
    assert loaded.settings.queen.linger == 7
    assert loaded.problem is not None
    assert "ui.toml" in loaded.problem.message
    assert set_aside(where).read_bytes() == text.encode("latin-1")
    assert load(paths=where, env={}).problem is None


def test_a_broken_file_of_the_users_is_still_an_error(tmp_path: Path) -> None:
    where = paths(tmp_path, "[queen]\nprot = 7\n")
    where.ui_file.write_text("[queen]\nport = 1\n", "utf-8")
    with pytest.raises(SettingsError, match=r"config\.toml:2"):
        load(paths=where, env={})
