"""Arguments of `rbee model …` that cannot be right: exit code 2, and no queen is started."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.support.home import Home

NAMES: list[tuple[str, ...]] = [
    ("show",), ("download",), ("delete", "--yes"), ("verify",), ("load",), ("unload",),
    ("copy", "--to", "home"),
]  # fmt: skip
WRONG = (b"", b"a\nb", b"\xff", b"x" * 513, b"\x1b[2J")


def refused(home: Home, words: tuple[str, ...], wrong: bytes) -> None:
    """It is a usage error with this name, told as JSON and nothing else."""
    command = [*map(os.fsencode, home.command("model", *words, "--json")), b"--", wrong]
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
        (("list", "--hive", "No_Hive"), "--hive"),
        (("download", "m", "--hive", "-x-"), "--hive"),
        (("download", *(f"m{n}" for n in range(17))), "16 are the most"),
        (("download",), "Missing argument"),
        (("delete", "m"), "Add --yes"),
        (("delete", "m", "--yes", "--hive", "../x"), "--hive"),
        (("verify", "m", "--hive", "x" * 64), "--hive"),
        (("gc", "--hive", ""), "--hive"),
        (("copy", "m"), "--to"),
        (("copy", "m", "--to", "A"), "--to:"),
        (("copy", "m", "--to", "a", "--from", "A"), "--from:"),
        (("copy", "m", "--to", "a", "--from", "a"), "one hive"),
        (("load", "m", "--device", "toaster"), "device"),
        (("load", "m", "--hive", "No"), "hive"),
        (("unload", "m", "--device", "cpu\n"), "device"),
        (("search", " "), "1 to 200"),
        (("search", "x" * 201), "1 to 200"),
        (("search", "x", "--limit", "0"), "--limit"),
        (("search", "x", "--limit", "51"), "--limit"),
        (("import", "--all", "m"), "either --all"),
        (("import", "--copy"), "copy what"),
        (("import", "--name", "x"), "--name"),
        (("import", "a", "b", "--name", "x"), "--name"),
        (("import", "a", "--name", ""), "name"),
        (("import", "a", "--name", "x" * 129), "--name"),
        (("import", "a\nb"), "neither a path"),
        (("import", ""), "neither a path"),
        (("import", "x" * 4097), "neither a path"),
        (("import", "a", "--hive", "A"), "--hive"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_arguments_that_are_none(home: Home, words: tuple[str, ...], said: str) -> None:
    done = home.rbee("model", *words)
    assert done.returncode == 2, done
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert home.state is None


def test_short_names_ask_no_queen(home: Home) -> None:
    (home.path / "config").mkdir()
    file = home.path / "config" / "config.toml"
    file.write_text('[models.aliases]\nmine = "file:/m.gguf"\nqwen3-4b = "hf:a/b"\n', "utf-8")
    told = json.loads(home.rbee("model", "aliases", "--json").stdout)["aliases"]
    by_name = {one["name"]: one for one in told}
    assert by_name["mine"] == {
        "name": "mine", "ref": "file:/m.gguf", "about": "", "origin": "settings",
    }  # fmt: skip
    assert (by_name["qwen3-4b"]["ref"], by_name["qwen3-4b"]["origin"]) == ("hf:a/b", "settings")
    assert by_name["llama-3.2-3b"]["origin"] == "built in"
    assert len(by_name) == len(told) > 12
    table = home.rbee("model", "aliases").stdout.splitlines()
    assert table[0].split()[0] == "NAME"
    assert len(table) == len(told) + 1
    assert home.state is None
