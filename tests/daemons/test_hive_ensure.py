"""`rbee-hive --ensure`, `--status`, `--stop`, `--log` with real processes: one hive of a name."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rbee import __version__
from rbee.daemons.hive import ensure
from rbee.daemons.state import locked
from rbee.errors import HiveExists, HiveOffline, SettingsError
from rbee.paths import Paths
from rbee.protocol import PROTOCOL
from rbee.protocol.base import encode
from tests.daemons.standing_hive import Spoken, StandingHive, gone, nobody, told
from tests.support.home import wait_for


@pytest.fixture
def hive(tmp_path: Path) -> Iterator[StandingHive]:
    one = StandingHive(tmp_path / "home")
    yield one
    one.close()


def paths_of(hive: StandingHive) -> Paths:
    return Paths.user({"RBEE_HOME": str(hive.home.path)})


def test_it_starts_a_hive_that_stays_and_tells_of_the_same_one_again(hive: StandingHive) -> None:
    first = hive.ensure()
    assert (first.name, first.version, first.protocol) == ("attic", __version__, PROTOCOL)
    assert first.url.startswith("http://127.0.0.1:")
    assert first.alone is None
    process = psutil.Process(first.pid)
    assert os.getsid(first.pid) == first.pid
    assert process.cwd() == "/"
    assert hive.ensure() == first
    assert told(hive.run("--status").stdout) == first
    with Spoken(first) as spoken:
        assert spoken.health()["name"] == "attic"
    assert stat.S_IMODE(hive.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(hive.log.stat().st_mode) == 0o600
    assert first.token not in hive.log.read_text("utf-8")
    assert first.token not in " ".join(process.cmdline())
    assert "attic listens on" in hive.run("--log").stdout

    done = hive.run("--stop")
    assert (done.returncode, done.stdout) == (0, f"hive attic (pid {first.pid}) stopped\n")
    assert gone(process)
    assert not hive.file.exists()
    assert hive.run("--status").returncode == 1
    assert "signal" not in hive.run("--log").stdout
    done = hive.run("--stop")
    assert (done.returncode, done.stdout) == (0, "no hive named attic runs\n")


def test_what_it_was_started_with_stays_outside_but_for_settings(hive: StandingHive) -> None:
    hive.home.env |= {
        "RBEE_INTERNAL_TOKEN": "hush", "HF_TOKEN": "hush", "SECRET": "hush", "RBEE_HIVE_LEASE": "77"
    }  # fmt: skip
    models = hive.home.path / "elsewhere"
    up = hive.ensure("--models-dir", str(models))
    env = psutil.Process(up.pid).environ()
    assert "hush" not in env.values()
    assert env["RBEE_HIVE_LEASE"] == "77"
    with Spoken(up) as spoken:
        assert up.token != "hush"
        assert spoken.health()["lease"] == 77
        assert spoken.json("GET", "/v1/capabilities")["models_dir"] == str(models)


def test_labels_of_the_settings_are_told(hive: StandingHive) -> None:
    hive.home.env["RBEE_HIVE_LABELS"] = "region=eu,watts=350"
    with Spoken(hive.ensure()) as spoken:
        labels = spoken.json("GET", "/v1/capabilities")["labels"]
    assert labels == {"region": "eu", "watts": "350"}


def test_two_at_once_have_the_same_hive(hive: StandingHive) -> None:
    processes = [hive.start("--ensure") for _ in range(3)]
    ups = [told(process.communicate(timeout=60)[0]) for process in processes]
    assert ups == [ups[0]] * 3


def test_one_that_was_killed_is_started_anew_and_its_workers_are_gone(hive: StandingHive) -> None:
    first = hive.ensure()
    with Spoken(first) as spoken, spoken.followed():
        worker = spoken.spawn()
        os.kill(first.pid, signal.SIGKILL)
    wait_for(lambda: gone(worker), limit=5, what="its worker goes with it")
    wait_for(lambda: nobody(hive.home.path), limit=5, what="and the guard")
    assert hive.file.exists()
    assert hive.run("--status").returncode == 1
    second = hive.ensure()
    assert second.pid != first.pid
    assert second.token != first.token
    with Spoken(second) as spoken:
        assert spoken.json("GET", "/v1/workers")["workers"] == []


def test_workers_whose_hive_and_guard_are_killed_are_swept_by_the_next(hive: StandingHive) -> None:
    first = hive.ensure()
    with Spoken(first) as spoken, spoken.followed():
        worker = spoken.spawn()
        guard = worker.parent()
        assert guard is not None
        os.kill(worker.pid, signal.SIGSTOP)
        os.kill(guard.pid, signal.SIGSTOP)
        os.kill(first.pid, signal.SIGKILL)
    assert not gone(worker)
    hive.ensure()
    wait_for(lambda: gone(worker) and gone(guard), limit=5, what="they are swept")
    # the guard's end may have taken the worker along before it was looked at
    assert re.search("killed [12] processes an earlier hive left", hive.log.read_text("utf-8"))


def test_one_that_hangs_is_said_to_and_is_replaced_or_ended_on_request(hive: StandingHive) -> None:
    first = hive.ensure()
    with Spoken(first) as spoken, spoken.followed():
        worker, process = spoken.spawn(), psutil.Process(first.pid)
        os.kill(first.pid, signal.SIGSTOP)
        done = hive.run("--ensure")
        assert (done.returncode, done.stdout) == (1, "")
        assert (
            f"error HIVE_OFFLINE: hive attic (pid {first.pid}) lives, but does not" in done.stderr
        )
        assert "→ Start it anew, with its workers: rbee hive restart attic." in done.stderr
        assert not gone(worker)
        second = hive.ensure("--replace")
    assert gone(worker)
    assert second.pid != first.pid
    assert gone(process)

    os.kill(second.pid, signal.SIGSTOP)
    done = hive.run("--stop")
    assert done.returncode == 0, done.stderr
    assert "did not stop when it was asked" in done.stdout
    wait_for(lambda: nobody(hive.home.path), limit=5)


def test_replace_ends_one_that_is_well_with_its_workers(hive: StandingHive) -> None:
    first = hive.ensure()
    with Spoken(first) as spoken, spoken.followed():
        worker = spoken.spawn()
        second = hive.ensure("--replace")
    assert gone(worker)
    assert second.pid != first.pid
    assert told(hive.run("--status").stdout) == second


def test_one_of_another_version_is_told_of_as_it_is(hive: StandingHive) -> None:
    up = hive.ensure()
    entry = json.loads(hive.file.read_text("utf-8")) | {"version": "0.0.1", "later": "field"}
    hive.file.write_bytes(encode(entry))
    assert hive.ensure().version == "0.0.1"
    assert psutil.pid_exists(up.pid)
    assert hive.ensure("--replace").version == __version__


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1}', "[]"])
def test_a_file_that_is_no_use_is_nobody(hive: StandingHive, content: str) -> None:
    hive.state.mkdir(parents=True)
    hive.file.write_text(content, "utf-8")
    assert hive.run("--status").returncode == 1
    assert hive.run("--stop").stdout == "no hive named attic runs\n"


def test_another_process_of_that_number_is_left_alone(hive: StandingHive) -> None:
    up = hive.ensure()
    entry = json.loads(hive.file.read_text("utf-8"))
    assert hive.run("--stop").returncode == 0
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        hive.file.write_bytes(encode(entry | {"pid": sleeper.pid}))
        assert hive.run("--status").returncode == 1
        assert hive.run("--stop").stdout == "no hive named attic runs\n"
        assert sleeper.poll() is None
        assert hive.ensure().pid not in (up.pid, sleeper.pid)
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait(10)


def test_a_name_that_another_kind_of_hive_has_is_refused(
    hive: StandingHive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensure, "SETTLE_LIMIT", 0.2)
    paths = paths_of(hive)
    paths.ensure()
    with locked(paths.state / "hive-attic.lock") as mine:
        assert mine
        for command in (ensure.ensure, ensure.stop):
            with pytest.raises(HiveExists, match="was not started by a queen elsewhere"):
                command(paths, "attic")
        with pytest.raises(HiveOffline):
            ensure.status(paths, "attic")
    assert nobody(hive.home.path)


def test_why_one_cannot_start_is_told_with_its_last_words(hive: StandingHive) -> None:
    hive.state.mkdir(parents=True)
    (hive.state / "logs").write_text("in the way", "utf-8")
    done = hive.run("--ensure")
    assert done.returncode != 0
    assert done.stdout == ""
    code, action = done.stderr.splitlines()[-2:]
    assert code.startswith("error FORBIDDEN: ")
    assert str(hive.state / "logs") in code
    assert action.startswith("  → ")


def test_one_that_dies_while_it_starts_is_told_of_with_its_log(hive: StandingHive) -> None:
    paths_of(hive).ensure()
    hive.log.write_text("of an earlier start\n", "utf-8")
    few_files = ["sh", "-c", 'ulimit -n 12; exec "$@"', "sh", *hive.command("--ensure")]
    done = subprocess.run(
        few_files, env=hive.home.env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stdout
    assert "of an earlier start" not in done.stderr
    assert "hive attic ended with code 1 while it was starting" in done.stderr
    assert f"→ Read its log: {hive.log}." in done.stderr
    assert "Too many open files" in done.stderr
    assert nobody(hive.home.path)


def test_what_it_says_of_itself_when_it_cannot_start_is_passed_on(
    hive: StandingHive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBEE_HOME", str(hive.home.path))
    monkeypatch.setenv("RBEE_LOG_LEVEL", "loud")
    with pytest.raises(SettingsError, match="RBEE_LOG_LEVEL") as caught:
        ensure.ensure(paths_of(hive), "attic")
    assert "The default is 'info'." in caught.value.action


@pytest.mark.parametrize("name", ["../x", "A", "a_b", "-a"])
def test_a_name_that_is_no_label_is_refused(hive: StandingHive, name: str) -> None:
    done = hive.run("--ensure", f"--name={name}")
    assert done.returncode == 2
    assert "error SETTINGS_ERROR" in done.stderr
    assert not hive.state.exists()


def test_a_long_log_is_set_aside_at_the_next_start(hive: StandingHive) -> None:
    paths = paths_of(hive)
    paths.ensure()
    hive.log.write_bytes(b"old\n" * (ensure.LOG_LIMIT // 4 + 1))
    hive.ensure()
    assert hive.log.with_suffix(".log.1").stat().st_size > ensure.LOG_LIMIT
    assert hive.log.read_text("utf-8").count("old") == 0
