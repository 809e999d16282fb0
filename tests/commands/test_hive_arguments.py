"""Arguments of `rbee hive …` and `rbee logs` that cannot be right: exit code 2, no queen starts."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from rbee.cli.hives import ssh_hosts
from rbee.commands.hives import labels_of
from rbee.errors import InvalidRequest
from tests.support.home import Home

NAMES: list[tuple[str, ...]] = [
    ("add",), ("install",), ("upgrade",), ("uninstall", "--yes"), ("remove", "--yes"), ("start",),
    ("stop",), ("restart",), ("refresh",), ("wake",), ("check",), ("show",), ("status",),
    ("set", "--label", "a=b"), ("doctor",),
]  # fmt: skip
WRONG = (b"", b"Gaming_PC", b"a\nb", b"\xff", b"../x", b"\x1b[2J")


def refused(home: Home, words: tuple[str, ...], wrong: bytes) -> None:
    """It is a usage error with this name, told as JSON and nothing else."""
    command = [*map(os.fsencode, home.command("hive", *words, "--json")), b"--", wrong]
    done = subprocess.run(command, env=home.env, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2, (wrong, done)
    assert json.loads(done.stdout)["error"]["code"] == "INVALID_REQUEST"
    assert done.stderr == b""


@pytest.mark.parametrize("words", NAMES, ids=lambda words: str(words[0]))
def test_names_that_are_none(home: Home, words: tuple[str, ...]) -> None:
    refused(home, words, WRONG[NAMES.index(words) % len(WRONG)])
    assert home.state is None


@pytest.mark.parametrize("wrong", WRONG)
def test_whatever_is_wrong_with_the_name(home: Home, wrong: bytes) -> None:
    refused(home, ("show",), wrong)
    assert home.state is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("hive", "add"), "Missing argument"),
        (("hive", "add", "a", "-oProxyCommand=x"), "No such option"),
        (("hive", "add", "a", "--", "-oProxyCommand=x"), "TARGET"),
        (("hive", "add", "a", "u@h\nx"), "TARGET"),
        (("hive", "add", "a", ""), "TARGET"),
        (("hive", "add", "a", "x" * 401), "TARGET"),
        (("hive", "add", "a", "u@h", "--path", "rel/x"), "--path"),
        (("hive", "add", "a", "u@h", "--python", "python3"), "--python"),
        (("hive", "add", "a", "u@h", "--models-dir", "/a\nb"), "--models-dir"),
        (("hive", "add", "a", "u@h", "--label", "tier"), "--label"),
        (("hive", "add", "a", "u@h", "--label", "Tier One=x"), "--label"),
        (("hive", "add", "a", "u@h", "--label", f"tier={'x' * 65}"), "--label"),
        (("hive", "add", "a", "u@h", "--fingerprint", "md5:x"), "--fingerprint"),
        (("hive", "add", "a", "u@h", "--forward", "carrier-pigeon"), "--forward"),
        (("hive", "install", "a", "--extra", "Llama CPP"), "--extra"),
        (("hive", "install", "a", "--path", "x"), "--path"),
        (("hive", "upgrade"), "or give --all"),
        (("hive", "upgrade", "a", "--all"), "or give --all"),
        (("hive", "uninstall", "a"), "Add --yes"),
        (("hive", "remove", "a"), "Add --yes"),
        (("hive", "start", "a", "--detached", "0"), "--detached"),
        (("hive", "start", "a", "--detached", "nan"), "--detached"),
        (("hive", "set", "a"), "nothing to change"),
        (("hive", "set", "a", "--target", ""), "TARGET"),
        (("hive", "set", "a", "--path", "x"), "--path"),
        (("hive", "logs", "A"), "NAME"),
        (("hive", "logs", "a", "-n", "0"), "--lines"),
        (("logs", "--hive", "A"), "--hive"),
        (("logs", "--worker", "../x"), "worker"),
        (("logs", "--worker", "w-01", "--hive", "a"), "--hive or --worker"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_arguments_that_are_none(home: Home, words: tuple[str, ...], said: str) -> None:
    done = home.rbee(*words)
    assert done.returncode == 2, done
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert home.state is None


def test_a_shell_is_offered_the_hosts_of_the_ssh_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ssh_hosts("") == []
    (tmp_path / ".ssh").mkdir()
    config = tmp_path / ".ssh" / "config"
    config.write_text("Host box *.lan\n User me\nHost bench attic\n", "utf-8")
    assert ssh_hosts("b") == ["box", "bench"]
    config.write_bytes(b"\xff\x00" * 100)
    assert ssh_hosts("") == []


def test_labels_are_names_and_texts() -> None:
    assert labels_of(["region=attic", "note=a=b", "tier="]) == {
        "region": "attic", "note": "a=b", "tier": "",
    }  # fmt: skip
    with pytest.raises(InvalidRequest, match="--label"):
        labels_of(["region"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bee@10.0.0.7",), "rbee hive add NAME bee@10.0.0.7"),
        (("server.lan",), "rbee hive add NAME server.lan"),
        (("My PC", "bee@10.0.0.7"), "rbee hive add NAME USER@HOST"),
        (("a", "u@h", "--label", "=x"), "--label: '=x' will not do"),
    ],
)
def test_an_addition_that_goes_wrong_says_how_it_goes(
    home: Home, words: tuple[str, ...], said: str
) -> None:
    done = home.rbee("hive", "add", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
