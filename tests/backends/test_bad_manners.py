"""`rbee backend check` of backends that end, hang or leave something behind: bounded and told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from rbee import registry
from rbee.backend_contract.checks import NAMES
from tests.support.home import wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups are POSIX's")

_CODE = """
import os, subprocess, sys, time
from pathlib import Path
from rbee.backend_api import BackendInfo, ModelFile, Support

class Rude:
    def load(self, model, options, progress, cancelled):
        {deed}

def create():
    return Rude()

INFO = BackendInfo(
    "rude", ("rude",), ("text-gen",), lambda: Support(True, ("cpu",)), create,
    models=lambda: [ModelFile("one", Path(__file__), "rude")],
)
"""


def installed(folder: Path, deed: str, *, first: str = "") -> None:
    """A package with the backend `rude`, which does `deed` when it loads, `first` on import."""
    (folder / "rude.py").write_text(first + _CODE.replace("{deed}", deed))
    info = folder / "rude-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rude\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rbee.backends]\nrude = rude:INFO\n")


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def checked(folder: Path) -> tuple[int, list[dict[str, str]]]:
    done = subprocess.run(
        [sys.executable, "-m", "rbee", "backend", "check", "rude", "--json"],
        env={**os.environ, "PYTHONPATH": str(folder), "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)["clauses"]


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        ("os._exit(0)", "its process ended with 0"),
        ("print('half a word'); sys.stdout.flush(); os.kill(os.getpid(), 11)", "ended with -11"),
    ],
)
def test_a_process_that_is_ended_is_no_contract_kept(tmp_path: Path, deed: str, words: str):
    installed(tmp_path, deed)
    code, clauses = checked(tmp_path)
    assert (code, clauses[-1]["state"]) == (1, "failed")
    assert words in clauses[-1]["words"]
    assert not list(tmp_path.glob("rbee-check-*"))


def test_a_backend_that_calls_exit_fails_each_clause_and_the_others_are_told(tmp_path: Path):
    installed(tmp_path, "sys.exit(0)")
    code, clauses = checked(tmp_path)
    assert code == 1
    assert tuple(one["name"] for one in clauses) == NAMES
    [loads] = [one for one in clauses if one["name"] == "loads"]
    assert (loads["state"], loads["words"]) == ("failed", "SystemExit: 0")


def test_what_it_started_is_ended_with_it(tmp_path: Path):
    left = tmp_path / "left"
    installed(
        tmp_path,
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        f" close_fds=False); Path({str(left)!r}).write_text(str(left.pid)); os._exit(3)",
    )
    code, clauses = checked(tmp_path)
    assert code == 1
    assert "ended with 3" in clauses[-1]["words"]
    pid = int(left.read_text())
    wait_for(lambda: ended(pid) or None, what="the process that it started is gone")


def test_a_backend_that_exits_on_import_takes_no_finder_with_it(tmp_path, monkeypatch):
    installed(tmp_path, "pass", first="import sys\nsys.exit(7)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {info.name: support for info, support in registry.survey()}
    assert not found["rude"].available
    assert "SystemExit: 7" in found["rude"].reason
    assert found["echo"].available
