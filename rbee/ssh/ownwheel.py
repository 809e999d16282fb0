"""The wheel of this very rbee: from how it is installed, or built from the sources it runs from.

Owns where our own wheel and our own requirements come from; the same rbee gives the same bytes, so
that a machine that has it is recognised.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement

from rbee.errors import InstallFailed
from rbee.ssh import pip
from rbee.ssh.repack import repack, rewritten, source_of

BUILD_LIMIT = 600.0
_FILES = ("pyproject.toml", "README.md", "LICENSE")


def installed() -> Distribution:
    """The distribution `rbee` of this environment. Raises InstallFailed where there is none."""
    for dist in distributions(name="rbee"):
        if dist.read_text("RECORD"):  # what a build leaves in a source tree has none
            return dist
    raise _no_source("this rbee was not installed with pip or uv")


def requires(dist: Distribution) -> list[str]:
    """What rbee needs, with its extras as markers: of a source tree, what stands there now."""
    source = source_of(dist)
    if source is None:
        return list(dist.requires or ())
    try:
        project = _project(source)
        needed = [str(text) for text in project.get("dependencies", ())]
        for extra, texts in project.get("optional-dependencies", {}).items():
            needed += [_of_extra(str(text), extra) for text in texts]
    except InvalidRequirement as exc:
        raise _no_source(f"{source}/pyproject.toml: {exc}") from exc
    return needed


def extras(dist: Distribution) -> list[str]:
    """The names of the extras that a machine may be given."""
    source = source_of(dist)
    if source is not None:
        named = list(_project(source).get("optional-dependencies", {}))
    else:
        named = dist.metadata.get_all("Provides-Extra") or []
    return [name for name in named if name != "dev"]


async def own_wheel(dist: Distribution, cache: Path, tell: Callable[[str], None]) -> Path:
    """The wheel, made once for each content. Raises InstallFailed."""
    source = source_of(dist)
    if source is None:
        return await anyio.to_thread.run_sync(repack, dist, cache / "own")
    place = cache / "own" / await anyio.to_thread.run_sync(_hash, source)
    for made in place.glob("rbee-*.whl"):
        os.utime(made)
        return made
    tell(f"building rbee from {source}")
    folder = await anyio.to_thread.run_sync(_copied, source)
    try:
        words = pip.source_command(folder / "source", folder / "wheel")
        ended = await pip.run(words, limit=BUILD_LIMIT)
        return await anyio.to_thread.run_sync(_kept, ended, source, folder / "wheel", place)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))


def _kept(ended: pip.Ended, source: Path, folder: Path, place: Path) -> Path:
    built = list(folder.glob("rbee-*.whl"))
    if ended.status != 0 or not built:
        raise InstallFailed(
            f"rbee's own wheel could not be built from {source}: {ended.why}",
            action="Install rbee from a wheel on this machine, or run `pip wheel --no-deps .` in "
            "its sources and see what it says.",
            step="packages",
            tail=ended.tail,
        )
    return rewritten(built[0], place / built[0].name)


def _of_extra(text: str, extra: str) -> str:
    requirement = Requirement(text)
    before = f"({requirement.marker}) and " if requirement.marker is not None else ""
    requirement.marker = Marker(f"{before}extra == '{extra}'")
    return str(requirement)


def _project(source: Path) -> dict[str, Any]:
    return dict(_toml(source).get("project", {}))


def _toml(source: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_read(source / "pyproject.toml").decode())
    except ValueError as exc:
        raise _no_source(f"{source}/pyproject.toml cannot be read: {exc}") from exc


def _folders(source: Path) -> list[Path]:
    """What belongs to the wheel: the folders that pyproject.toml maps packages to."""
    mapped = _toml(source).get("tool", {}).get("setuptools", {}).get("package-dir", {})
    return [source / str(folder) for folder in mapped.values()] or [source / "rbee"]


def _sources(source: Path) -> Iterator[Path]:
    yield from (source / name for name in _FILES if (source / name).is_file())
    for folder in _folders(source):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                yield path


def _hash(source: Path) -> str:
    seen = hashlib.sha256()
    for path in _sources(source):
        content = hashlib.sha256(_read(path)).hexdigest()
        seen.update(f"{path.relative_to(source)}\0{content}\n".encode())
    return seen.hexdigest()[:16]


def _copied(source: Path) -> Path:
    """A copy to build in, in a new folder: setuptools writes into the tree that it builds."""
    folder = Path(tempfile.mkdtemp(prefix="rbee-build-"))
    for path in _sources(source):
        place = folder / "source" / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    return folder


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise _no_source(f"{path}: {exc.strerror or exc}") from exc


def _no_source(why: str) -> InstallFailed:
    return InstallFailed(
        f"there is no wheel of this rbee to send: {why}",
        action="Install rbee with `pip install rbee` or `uv tool install rbee` on this machine.",
        step="packages",
    )
