"""The guides against the code: routes, operations, errors, commands, settings, targets, links."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import typer.main

from rbee import errors, settings
from rbee.cli import app
from rbee.errors import Local, RbeeError
from rbee.protocol.operations import OPERATIONS

ROOT = Path(__file__).parents[2]
REFERENCE = ["docs/cli.md", "docs/configuration.md", "docs/keys.md"]
GUIDES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def section(title: str) -> str:
    return text_of("docs/api.md").split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def written_routes(title: str) -> set[tuple[str, str]]:
    return set(re.findall(r"^\| (GET|POST|DELETE|PUT|PATCH) \| `([^`]+)` \|", section(title), re.M))


def served_routes(daemon: str) -> set[tuple[str, str]]:
    files = sorted((ROOT / "rbee" / "daemons" / daemon).glob("ap*.py"))
    source = "".join(file.read_text("utf-8") for file in files)
    source = source.replace('f"{prefix}', '"/v1').replace("{{model:path}}", "{model}")
    source = source.replace("{{", "{").replace("}}", "}")
    found = set(re.findall(r'\("(GET|POST|DELETE|PUT|PATCH)", "(/[^"]+)"', source))
    for path, rest in re.findall(r'\b(?:Route|guarded)\("(/[^"]+)", ([^\n]*)\),?\n', source):
        method = re.search(r'"(GET|POST|DELETE|PUT|PATCH)"', rest)
        found.add((method[1] if method else "GET", path))
    return found


@pytest.mark.parametrize("daemon", ["Queen", "Hive", "Worker"])
def test_routes_are_as_written(daemon: str):
    served = served_routes(daemon.lower())
    assert len(served) >= 8
    assert written_routes(daemon) == served


def test_operations_are_as_written():
    assert tuple(re.findall(r"^\| `([a-z_]+)` \|", section("Operations"), re.M)) == OPERATIONS


def test_errors_are_as_written():
    written = {
        (int(status), code)
        for status, codes in re.findall(r"^\| (\d{3}) \| ([A-Z_, ]+) \|$", section("Errors"), re.M)
        for code in codes.split(", ")
    }
    sent = {
        (kind.status, kind.code)
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, RbeeError)
        and not issubclass(kind, Local)
        and kind is not RbeeError
    }
    assert written == sent


def commands() -> dict[str, set[str]]:
    root = typer.main.get_command(app)
    return {name: set(getattr(cmd, "commands", {})) for name, cmd in root.commands.items()}


@pytest.mark.parametrize("guide", GUIDES)
def test_commands_in_the_guides_exist(guide: str):
    known = commands()
    for first, rest in re.findall(r"(?:`|\$ |\| )rbee ([a-z]+)((?: [a-z|]+)?)\b", text_of(guide)):
        assert first in known, f"rbee {first}"
        for second in rest.split("|") if known[first] else ():
            assert second.strip() in known[first], f"rbee {first}{rest}"


def test_every_command_is_in_the_readme():
    readme = text_of("README.md")
    for name, below in commands().items():
        assert f"rbee {name}" in readme
        for second in below:
            assert re.search(rf"rbee {name}\b[^|\n]*\b{second}\b", readme), f"rbee {name} {second}"


@pytest.mark.parametrize("guide", sorted({*GUIDES} - {"docs/keys.md"}))  # ids look like settings
def test_settings_in_the_guides_exist(guide: str):
    sections = "|".join(settings.SECTIONS)
    known = {field.name for field in settings.fields()}
    named = re.findall(rf"`\[?((?:{sections})\.[a-z_]+)\]?(?: = [^`]*)?`", text_of(guide))
    assert set(named) <= known


@pytest.mark.parametrize("guide", GUIDES)
def test_targets_in_the_guides_exist(guide: str):
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.M))
    assert set(re.findall(r"(?:`|\$ )make ([a-z]+)", text_of(guide))) <= targets


@pytest.mark.parametrize("guide", [*GUIDES, "CHANGELOG.md"])
def test_links_lead_somewhere(guide: str):
    for target in re.findall(r"\]\(([^)#]+)\)", text_of(guide)):
        if not target.startswith("https://"):
            assert ((ROOT / guide).parent / target).exists(), target


def tree() -> str:
    return text_of("docs/architecture.md").split("\n## Tree\n", 1)[1].split("```")[1]


def block(path: str) -> str:
    """What the tree says of a folder, those below it included."""
    found = tree()
    for depth, name in enumerate(path.split("/")):
        indent = "  " * depth
        match = re.search(rf"^{indent}{name}/([^\n]*\n(?:{indent} +[^\n]*\n|\n)*)", found, re.M)
        assert match, f"{path} is not in the tree"
        found = match[1]
    return found


def test_modules_in_the_tree_exist():
    names = {path.stem for path in (ROOT / "rbee").rglob("*.py")}
    for name in re.findall(r"\b([a-z_]+)\.py\b", tree()):
        assert name in names, name
    core = {p.stem for p in (ROOT / "rbee" / "core").glob("*.py")} - {"__init__"}
    assert set(block("rbee/core").split()) == core


DAEMONS = ["daemons", "daemons/queen", "daemons/hive", "daemons/worker"]
LISTED = ["commands", "web", "errors", "protocol", "access", "backend_contract", "core", *DAEMONS]
LISTED = ["", *LISTED, "sim", "hardware", "ssh", "discovery", "models"]


@pytest.mark.parametrize("folder", [*(f"rbee/{one}".rstrip("/") for one in LISTED), "tests"])
def test_the_tree_has_every_module(folder: str):
    below = [path for path in (ROOT / folder).iterdir() if any(path.glob("*.py"))]
    modules = () if folder == "tests" else (ROOT / folder).glob("[!_]*.py")
    names = {path.stem for path in (*below, *modules)} - {"__pycache__"}
    assert names <= set(re.findall(r"[a-z_]+", block(folder)))


def test_the_layers_are_those_that_are_checked():
    checked = text_of(".importlinter").split("\nlayers =\n", 1)[1].split("\n\n", 1)[0]
    written = text_of("docs/architecture.md").split("\n## Layers\n", 1)[1].split("```")[1]
    layers = [line.replace("rbee.", "").split() for line in checked.splitlines()]
    assert [line.split() for line in written.strip().splitlines()] == layers


def test_the_reference_pages_are_what_the_code_says():
    """When this fails: `make reference`."""
    pages = runpy.run_path(str(ROOT / "docs" / "reference.py"))["pages"]()
    assert [f"docs/{name}" for name in pages] == REFERENCE
    for name, text in pages.items():
        assert text_of(f"docs/{name}") == text, f"docs/{name} is stale: make reference"


def test_every_flag_and_setting_is_explained():
    for line in "".join(map(text_of, REFERENCE)).splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            assert cells[1], line
            assert cells[-1] or len(cells) == 3, line


def test_changelog_always_has_a_place_for_what_is_new():
    assert "\n## [Unreleased]\n" in text_of("CHANGELOG.md")
