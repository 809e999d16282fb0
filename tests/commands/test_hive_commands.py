"""`rbee hive …` and `rbee logs` as a user runs them, against a real queen and OpenSSH's server."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rbee import __version__
from tests.support.home import Home, wait_for
from tests.support.sshd import MISSING, Silent, Sshd, SshUser, fingerprint, free_port


@pytest.fixture
def user(home: Home) -> SshUser:
    """The user of `home`, who has an SSH key."""
    if MISSING:
        pytest.skip(MISSING)
    return SshUser(home.path)


@pytest.fixture
def server(tmp_path: Path, home: Home, user: SshUser) -> Iterator[Sshd]:
    """A machine that lets the user in and whose host key they have never seen."""
    server = Sshd(tmp_path / "far", authorized=user.key)
    yield server
    home.close()  # the queen ends her hives there, while she can reach them
    server.stop()
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(server.home):
                process.kill()
        except (psutil.Error, OSError):
            continue


def put(server: Sshd, version: str = __version__) -> None:
    """rbee is installed there: the programs of this environment, where an installation has them."""
    root = server.home / ".local" / "share" / "rbee"
    folder = root / "versions" / f"{version}-0123456789ab"
    (folder / "bin").mkdir(parents=True)
    for name in ("rbee", "rbee-hive"):
        script = folder / "bin" / name
        program = Path(sys.executable).with_name(name)
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(str(program))} "$@"\n', "utf-8")
        script.chmod(0o755)
    (root / "current").symlink_to(f"versions/{folder.name}")


def hives(home: Home) -> dict[str, dict[str, Any]]:
    """Those that were added, by name."""
    told = json.loads(home.rbee("hive", "list", "--json").stdout)["hives"]
    return {hive["name"]: hive for hive in told if hive["record"]}


def at_terminal(home: Home, *args: str, answers: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and what the terminal showed; an answer for each question."""
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        home.command(*args), env=home.env | {"TERM": "xterm"}, stdin=theirs, stderr=theirs,
        stdout=subprocess.PIPE, text=True, cwd=home.path,
    )  # fmt: skip
    os.close(theirs)
    shown, left, until = b"", list(answers), time.monotonic() + 90.0
    try:
        while time.monotonic() < until:
            if not select.select([mine], [], [], 1.0)[0]:
                continue
            try:
                shown += os.read(mine, 65536)
            except OSError:  # EIO: nobody has it open any more
                break
            if left and shown.count(b"[y/N]") > len(answers) - len(left):
                os.write(mine, f"{left.pop(0)}\n".encode())
        out, _ = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait(10)
        os.close(mine)
    return process.returncode, out, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_an_unknown_key_is_not_accepted_by_a_script_and_the_command_that_does_works(
    home: Home, server: Sshd
) -> None:
    key = fingerprint(server.host_keys[0])
    done = home.rbee("hive", "add", "far", server.address, "--label", "tier=fast")
    assert (done.returncode, done.stdout) == (255, "")
    assert "HOST_KEY_UNKNOWN" in done.stderr
    found = re.search(r"(rbee hive add .*) \(or --accept-new", done.stderr)
    assert found is not None, done.stderr
    assert f"--fingerprint {key}" in found[1]
    assert hives(home) == {}

    wrong = home.rbee("hive", "add", "far", server.address, "--fingerprint", f"SHA256:{'x' * 43}")
    assert wrong.returncode == 255
    assert key in wrong.stderr
    assert hives(home) == {}

    added = home.rbee(*shlex.split(found[1])[1:])
    assert added.returncode == 0, added.stderr
    assert added.stdout == f"far is added: {server.address}; rbee is not installed there yet\n"
    assert "next: rbee hive install far" in added.stderr
    hive = hives(home)["far"]
    assert hive["record"]["fingerprint"] == key
    assert hive["labels"] == {"tier": "fast"}
    again = home.rbee("hive", "add", "far", server.address)
    assert (again.returncode, "HIVE_EXISTS" in again.stderr) == (1, True)


def test_at_a_terminal_the_key_is_shown_and_asked_about(home: Home, server: Sshd) -> None:
    key = fingerprint(server.host_keys[0])
    code, out, shown = at_terminal(home, "hive", "add", "far", server.address, answers=["n"])
    assert (code, out) == (1, "")
    assert "nothing was added" in shown
    assert hives(home) == {}
    code, out, shown = at_terminal(home, "hive", "add", "far", server.address, answers=["y"])
    assert code == 0, shown
    for told in (
        key, "ssh-ed25519", f"[127.0.0.1]:{server.port}", "Trust this key? [y/N]",
        "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
    ):  # fmt: skip
        assert told in shown, shown
    assert out.startswith("far is added")
    assert list(hives(home)) == ["far"]


def test_each_machine_on_the_way_is_asked_about(
    home: Home, user: SshUser, server: Sshd, tmp_path: Path
) -> None:
    inner = Sshd(tmp_path / "inner", authorized=user.key)
    try:
        user.configure(
            f"Host door\n HostName 127.0.0.1\n Port {server.port}\n User {server.user}\n"
            f"Host inner\n HostName 127.0.0.1\n Port {inner.port}\n User {inner.user}\n"
            " ProxyJump door\n"
        )
        code, out, shown = at_terminal(home, "hive", "add", "inner", answers=["y", "y"])
        assert code == 0, shown
        for one in (server, inner):
            assert f"[127.0.0.1]:{one.port}" in shown
            assert fingerprint(one.host_keys[0]) in shown
        assert out.startswith("inner is added: inner;")
        assert home.rbee("hive", "remove", "inner", "--yes").returncode == 0
    finally:
        inner.stop()


def test_a_changed_key_is_refused_with_both_and_the_line(
    home: Home, user: SshUser, server: Sshd
) -> None:
    user.trust(server)
    before = fingerprint(server.host_keys[0])
    server.change_host_key()
    now = fingerprint(server.host_keys[0])
    done = home.rbee("hive", "add", "far", server.address, "--accept-new")
    assert (done.returncode, done.stdout) == (255, "")
    assert "HOST_KEY_CHANGED" in done.stderr
    for told in (before, now, f"line 1 of {user.known_hosts}"):
        assert told in done.stderr, done.stderr
    assert hives(home) == {}


def test_what_is_not_there_is_not_saved(home: Home, user: SshUser) -> None:
    done = home.rbee("hive", "add", "far", f"someone@127.0.0.1:{free_port()}")
    assert (done.returncode, done.stdout) == (255, "")
    assert "3 tries" in done.stderr
    assert "connecting to" in done.stderr
    assert hives(home) == {}


def test_a_host_of_the_ssh_config_needs_no_target(home: Home, user: SshUser, server: Sshd) -> None:
    user.trust(server)
    user.configure(f"Host box\n HostName 127.0.0.1\n Port {server.port}\n User {server.user}\n")
    done = home.rbee("hive", "add", "box")
    assert done.returncode == 0, done.stderr
    assert hives(home)["box"]["record"]["target"] == "box"
    scan = home.rbee("hive", "scan", "--json")
    found = {one["name"]: one for one in json.loads(scan.stdout)["machines"]}
    assert (found["box"]["answers"], found["box"]["added_as"]) == (True, "box")
    assert "box" in home.rbee("hive", "scan").stdout
    none = home.rbee("hive", "add", "no-such-machine-anywhere")
    assert (none.returncode, none.stdout) == (255, "")
    assert "rbee hive add no-such-machine-anywhere USER@HOST" in none.stderr
    assert "~/.ssh/config knows: box" in none.stderr


def test_a_machine_without_rbee_says_what_comes_next(
    home: Home, user: SshUser, server: Sshd
) -> None:
    user.trust(server)
    assert home.rbee("hive", "add", "far", server.address).returncode == 0
    wait_for(lambda: hives(home)["far"]["state"] == "not installed", what="not installed")
    listed = home.rbee("hive", "list").stdout
    assert "not installed" in listed
    assert "→ rbee hive install far" in listed
    status = home.rbee("hive", "status", "far")
    assert status.returncode == 1
    assert "→ rbee hive install far" in status.stdout
    assert home.rbee("hive", "show", "far").returncode == 0
    doctor = home.rbee("hive", "doctor", "far", "--json")
    checks = {one["name"]: one for one in json.loads(doctor.stdout)["checks"]}
    assert (doctor.returncode, checks["state"]["state"]) == (1, "fail")
    assert checks["state"]["action"] == "rbee hive install far"
    assert checks["link"]["state"] == "ok"
    start = home.rbee("hive", "start", "far")
    assert (start.returncode, "rbee hive install far" in start.stderr) == (1, True)


def test_what_is_remembered_of_a_machine_is_changed_and_forgotten(
    home: Home, user: SshUser, server: Sshd
) -> None:
    user.trust(server)
    assert home.rbee("hive", "add", "far", server.address, "--path", "/opt/x").returncode == 0
    done = home.rbee("hive", "set", "far", "--label", "region=attic", "--models-dir", "/data/m",
                     "--path", "")  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = hives(home)["far"]["record"]
    assert (record["labels"], record["models_dir"]) == ({"region": "attic"}, "/data/m")
    assert record["path"] is None
    assert "region=attic" in home.rbee("hive", "show", "far").stdout
    assert home.rbee("hive", "set", "far", "--label", "region=").returncode == 0
    assert hives(home)["far"]["labels"] == {}
    code, out, shown = at_terminal(home, "hive", "remove", "far", answers=["n"])
    assert (code, out, "nothing was changed" in shown) == (1, "", True)
    jobs = home.rbee("job", "list").stdout
    assert re.search(r"hive_add +· +@far ", jobs), jobs
    job = json.loads(home.rbee("job", "list", "--json").stdout)["jobs"][0]["job_id"]
    assert "hive_add of far" in home.rbee("job", "logs", job).stdout
    removed = home.rbee("hive", "remove", "far", "--yes")
    assert (removed.returncode, removed.stdout) == (0, "far is removed\n")
    assert hives(home) == {}
    gone = home.rbee("hive", "show", "far")
    assert (gone.returncode, "rbee hive add far USER@HOST" in gone.stderr) == (1, True)


def test_a_machine_serves_and_is_looked_at_stopped_started_and_removed(
    home: Home, user: SshUser, server: Sshd
) -> None:
    user.trust(server)
    put(server)
    added = home.rbee("hive", "add", "far", server.address)
    assert added.stdout.endswith(f"rbee {__version__} is there and runs\n"), added
    assert home.rbee("hive", "status", "far").returncode == 0
    answer = home.rbee("infer", "-q", "--hive", "far", "--model", "echo", "over there")
    assert (answer.returncode, answer.stdout) == (0, "over there\n"), answer.stderr
    row = next(line for line in home.rbee("hive", "list").stdout.splitlines() if "far" in line)
    for told in ("online", server.address, "ssh", __version__, "cpu", "now"):
        assert told in row, row
    check = home.rbee("hive", "check", "far", "--json")
    steps = json.loads(check.stdout)["steps"]
    assert len(steps) >= 2
    assert all(step["ms"] > 0 for step in steps)
    assert "far works" in home.rbee("hive", "check", "far").stdout
    doctor = json.loads(home.rbee("hive", "doctor", "far", "--json").stdout)
    assert doctor["hive"] == "far"
    found = {one["name"]: one["state"] for one in doctor["checks"]}
    assert (found["state"], found["link"], found["version"]) == ("ok", "ok", "ok")
    assert "disk" in found
    logs = home.rbee("hive", "logs", "far", "-n", "5")
    assert logs.returncode == 0
    assert 1 <= len(logs.stdout.splitlines()) <= 5
    worker = next(one["worker_id"] for one in home.workers() if one["hive"] == "far")
    assert home.rbee("logs", "--worker", worker).stdout

    stopped = home.rbee("hive", "stop", "far")
    assert (stopped.returncode, stopped.stdout) == (0, "far is stopped\n"), stopped.stderr
    assert "→ rbee hive start far" in home.rbee("hive", "list").stdout
    assert home.rbee("hive", "doctor", "far").returncode == 0
    started = home.rbee("hive", "start", "far")
    assert started.returncode == 0, started.stderr
    assert started.stdout.startswith(f"far is online: rbee {__version__}, cpu ")
    again = home.rbee("hive", "restart", "far", "--json")
    assert json.loads(again.stdout)["hive"]["state"] == "online"
    assert home.rbee("hive", "refresh", "far").stdout.startswith("far is online")
    assert home.rbee("hive", "remove", "far", "--yes").returncode == 0
    assert hives(home) == {}


def test_a_log_is_followed_until_ctrl_c(home: Home, user: SshUser, server: Sshd) -> None:
    user.trust(server)
    put(server)
    assert home.rbee("hive", "add", "far", server.address).returncode == 0
    process = home.start("logs", "--hive", "far", "--follow")
    wait_for(lambda: home.out(process), what="the lines that are there")
    before = len(home.out(process).splitlines())
    assert home.rbee("infer", "-q", "--hive", "far", "--model", "echo", "x").returncode == 0
    wait_for(lambda: len(home.out(process).splitlines()) > before, what="a line that came")
    process.send_signal(signal.SIGINT)
    assert process.wait(15) == 130
    assert "Traceback" not in home.err(process)
    worker = next(one["worker_id"] for one in home.workers() if one["hive"] == "far")
    other = home.start("logs", "--worker", worker, "--follow")
    wait_for(lambda: home.out(other), what="the worker's lines")
    other.send_signal(signal.SIGINT)
    assert other.wait(15) == 130


def test_the_queens_log_needs_no_name(home: Home) -> None:
    assert home.rbee("queen", "start").returncode == 0
    assert home.rbee("logs", "-n", "2").stdout == home.rbee("queen", "logs", "-n", "2").stdout
    own = home.rbee("hive", "logs", "home", "-n", "1")
    assert (own.returncode, len(own.stdout.splitlines())) == (0, 1)


def test_ctrl_c_cancels_a_machine_that_says_nothing(home: Home, user: SshUser) -> None:
    silent = Silent()
    try:
        process = home.start("hive", "add", "far", f"someone@127.0.0.1:{silent.port}")
        wait_for(lambda: "connecting to" in home.err(process), what="the first try is told")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    finally:
        silent.close()
    assert home.get("/v1/jobs?limit=1")["jobs"][0]["state"] == "cancelled"
    assert hives(home) == {}


def test_a_hive_nobody_added_is_named_with_the_command_that_adds_it(home: Home) -> None:
    assert home.rbee("queen", "start").returncode == 0
    for words in (
        ("hive", "install", "attic"), ("hive", "upgrade", "attic"), ("hive", "start", "attic"),
        ("hive", "stop", "attic"), ("hive", "check", "attic"), ("hive", "wake", "attic"),
        ("hive", "uninstall", "attic", "--yes"), ("hive", "remove", "attic", "--yes"),
        ("hive", "show", "attic"), ("hive", "status", "attic"), ("hive", "doctor", "attic"),
        ("hive", "logs", "attic"), ("hive", "set", "attic", "--label", "a=b"),
        ("logs", "--hive", "attic"), ("infer", "--hive", "attic", "--model", "echo", "x"),
        ("model", "list", "--hive", "attic"), ("model", "gc", "--hive", "attic"),
    ):  # fmt: skip
        done = home.rbee(*words)
        assert (done.returncode, done.stdout) == (1, ""), (words, done)
        assert "HIVE_NOT_FOUND" in done.stderr, (words, done.stderr)
        assert "rbee hive add attic USER@HOST" in done.stderr, (words, done.stderr)
        assert "home" in done.stderr


def test_upgrading_all_goes_on_after_a_failure_and_tells_it(
    home: Home, user: SshUser, server: Sshd
) -> None:
    none = home.rbee("hive", "upgrade", "--all")
    assert (none.returncode, "rbee hive add NAME USER@HOST" in none.stderr) == (0, True)
    user.trust(server)
    assert home.rbee("hive", "add", "bare", server.address).returncode == 0
    bare = home.rbee("hive", "upgrade", "--all")
    assert (bare.returncode, "rbee hive install bare" in bare.stderr) == (0, True)
