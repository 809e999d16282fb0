"""The wheel, built from a copy of the source and installed where the checkout is not in sight."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from rbee import __version__

ROOT = Path(__file__).parents[2]
SOURCES = {"rbee": "rbee", "backends": "rbee/backends", "themes": "rbee/themes"}
SHIPPED = {".css", ".html", ".js", ".py", ".sh", ".tcss", ".toml", ".typed"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in SOURCES:
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, source / folder, ignore=leave)
    _pip("wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", str(out), str(source))
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of an environment with the wheel; other libraries come from this interpreter's."""
    place = tmp_path_factory.mktemp("venv")
    venv.create(place, with_pip=False, symlinks=True)
    python = place / "bin" / "python"
    _pip("install", "--no-deps", "--no-index", str(wheel), python=python)
    (site,) = place.glob("lib/python*/site-packages")
    # a path added by a .pth file has its own .pth files left alone, the editable install's too
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    return place / "bin"


def _pip(*args: str, python: Path | None = None) -> None:
    where = ["--python", str(python)] if python is not None else []
    command = [sys.executable, "-m", "pip", *where, "--disable-pip-version-check", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _run(command: list[str], home: Path) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "RBEE_HOME": str(home), "LANG": "C.UTF-8"}
    done = subprocess.run(
        command, cwd="/", env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_only_rbee_on_top(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert tops == {"rbee", f"rbee-{__version__}.dist-info"}


def test_every_source_file_is_in_it(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("rbee/")}
    wanted = {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in SOURCES.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SHIPPED
    }
    assert held == wanted


def test_command_runs_from_anywhere(installed: Path, tmp_path: Path):
    assert _run([str(installed / "rbee"), "--version"], tmp_path) == f"rbee {__version__}\n"
    assert (installed / "rbee-hive").exists()


def test_wheel_is_what_runs_and_has_its_backends_and_themes(installed: Path, tmp_path: Path):
    program = (
        "import json, rbee, rbee.themes\n"
        "from importlib.resources import files\n"
        "from rbee import registry\n"
        "loaded = [registry.load(name).name for name in registry.names()]\n"
        "themes = sorted(p.name for p in files(rbee.themes).iterdir() if p.name[-5:] == '.toml')\n"
        "print(json.dumps([rbee.__file__, rbee.themes.__file__, loaded, themes]))\n"
    )
    out = _run([str(installed / "python"), "-c", program], tmp_path)
    code, themes_code, backends, themes = json.loads(out)
    for path in (code, themes_code):
        assert Path(path).is_relative_to(installed.parent), path
    assert backends == ["echo", "llamacpp", "mlx", "torch"]
    assert themes == sorted(path.name for path in (ROOT / "themes").glob("*.toml"))
