"""What pyproject.toml and the pins say, against the folders and each other."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FOLDERS = {"rbee": "rbee", "rbee.backends": "backends", "rbee.themes": "themes"}
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def packages_on_disk() -> set[str]:
    found = set[str]()
    for package, folder in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join((package, *init.parent.relative_to(ROOT / folder).parts)))
    return found


def test_every_package_is_listed_and_every_listed_one_exists():
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == packages_on_disk()


def test_every_folder_with_modules_is_a_package():
    for folder in FOLDERS.values():
        for module in (ROOT / folder).rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), module


def test_the_folders_are_mapped_as_the_tests_believe():
    assert PROJECT["tool"]["setuptools"]["package-dir"] == FOLDERS


def test_nothing_imports_a_bundled_backend_by_name():
    for path in (ROOT / "rbee").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            wrong = [n for n in names if f"{n}.".startswith("rbee.backends.")]
            assert not wrong, f"{path.relative_to(ROOT)}:{node.lineno}"


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text("utf-8").splitlines()
    found: dict[str, str] = {}
    for line in lines:
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([a-z0-9]+(?:-[a-z0-9]+)*)==([0-9][A-Za-z0-9.]*)", line)
        assert match, f"{name}: not an exact pin: {line!r}"
        assert match[1] not in found, f"{name}: {match[1]} is there twice"
        found[match[1]] = match[2]
    return found


@pytest.mark.parametrize(
    "extras, files",
    [
        (["llamacpp", "demo", "nvidia", "lan", "web"], ["constraints.txt"]),
        (["dev"], ["constraints.txt", "constraints-dev.txt"]),
        (["mlx"], ["constraints.txt", "constraints-mlx.txt"]),
        (["torch"], ["constraints.txt", "constraints-torch.txt"]),
    ],
)
def test_every_dependency_is_pinned_to_an_allowed_version(extras: list[str], files: list[str]):
    known: dict[str, str] = {}
    for file in files:
        new = pins(file)
        assert not known.keys() & new.keys()
        known |= new
    texts = list(PROJECT["project"]["dependencies"])
    for extra in extras:
        texts += PROJECT["project"]["optional-dependencies"][extra]
    for requirement in map(Requirement, texts):
        version = known.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not pinned"
        assert requirement.specifier.contains(version), f"{requirement} but pinned {version}"


def test_the_small_installation_stays_small():
    assert not {"torch", "transformers", "nvidia-cublas"} & pins("constraints.txt").keys()
