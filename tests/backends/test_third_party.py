"""The door for others: a package with one file, installed by pip beside rbee, is used like ours.

The environment is a virtual one of its own that also sees what is installed for the tests, so that
the queen, the hive and the worker find the package by its entry point and by nothing else. torch
and mlx are hidden from it, to see what is said where nothing runs a model.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbee.backend_contract import tiny
from tests.support.home import Home
from tests.support.shout import rbee_shout

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the paths are those of POSIX")


class OtherHome(Home):
    """A user whose `rbee` runs in that environment."""

    python = ""

    def command(self, *args: str) -> list[str]:
        return [self.python, "-P", "-m", "rbee", *args]


@pytest.fixture(scope="module")
def user(tmp_path_factory) -> Iterator[OtherHome]:
    root = tmp_path_factory.mktemp("third")
    venv, ours = root / "venv", sysconfig.get_path("purelib")
    run(sys.executable, "-m", "venv", "--without-pip", str(venv))
    python = venv / "bin" / "python"
    site = Path(run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
    hidden = "import sys; sys.modules.update(dict.fromkeys(('torch', 'mlx')))"
    (site / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n{hidden}\n")
    source = shutil.copytree(Path(rbee_shout.__file__).parent, root / "shout")
    run(
        str(python), "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index",
        "--quiet", "--disable-pip-version-check", "--target", str(site), str(source),
    )  # fmt: skip
    home = OtherHome(root / "home")
    home.python = str(python)
    yield home
    home.rbee("queen", "stop")
    home.close()


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_is_listed_with_its_package(user: OtherHome):
    listed = json.loads(user.rbee("backend", "list", "--json").stdout)["backends"]
    [ours] = [one for one in listed if one["name"] == "shout"]
    assert (ours["package"], ours["version"]) == ("rbee-shout", "1.2.3")
    assert (ours["formats"], ours["available"], ours["devices"]) == (["shout"], True, ["cpu"])


def test_it_is_checked_with_the_model_it_brings(user: OtherHome):
    done = user.rbee("backend", "check", "shout", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"], told["model"]) == (0, True, "its model loud"), told
    assert {one["state"] for one in told["clauses"]} == {"ok", "skipped"}


def test_a_question_to_its_model_is_answered_by_it(user: OtherHome):
    done = user.rbee("infer", "-m", "loud", "hello from a third party")
    assert (done.returncode, done.stdout) == (0, "HELLO FROM A THIRD PARTY\n"), done.stderr
    [worker] = json.loads(user.rbee("worker", "list", "--json").stdout)["workers"]
    assert (worker["backend"], worker["model"]) == ("shout", "loud")
    refused = user.rbee("infer", "-m", "loud", "--backend", "echo", "hello")
    assert refused.returncode == 1
    assert "backend echo runs echo, loud is shout" in refused.stderr
    absent = user.rbee("infer", "-m", "loud", "--backend", "abacus", "hello")
    assert "no backend named abacus is installed (installed: echo," in absent.stderr


def test_a_model_that_nothing_there_runs_is_refused_with_the_command(user: OtherHome, tmp_path):
    pytest.importorskip("tokenizers", reason="neither of the extras torch and mlx is installed")
    folder = tiny.make(tmp_path / "tiny")
    done = user.rbee("infer", "-m", f"file:{folder}", "--json", "hello")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (1, "BACKEND_UNAVAILABLE")
    wanted = "mlx" if sys.platform == "darwin" else "torch"
    assert (
        f"backend {wanted} is not usable: the package {wanted} is not installed"
        in (error["message"])
    )
    assert f"pip install 'rbee[{wanted}]'" in error["details"]["suggested_action"]
    listed = {
        one["name"]: one
        for one in json.loads(user.rbee("backend", "list", "--json").stdout)["backends"]
    }
    assert listed[wanted]["action"] == error["details"]["suggested_action"]


def test_the_page_shows_this_very_file():
    root = Path(rbee_shout.__file__).parent
    page = (Path(__file__).parents[2] / "docs" / "backends.md").read_text("utf-8")
    assert f"```python\n{(root / 'rbee_shout.py').read_text('utf-8')}```" in page
    assert f"```toml\n{(root / 'pyproject.toml').read_text('utf-8')}```" in page
