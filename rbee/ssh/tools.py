"""What is sent so that a machine can make an environment: pip, `uv`, or a whole Python.

Owns which of them a machine needs and where they come from.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import Literal

import anyio
import anyio.to_thread

from rbee.errors import InstallFailed
from rbee.ssh import pip
from rbee.ssh.probe import Facts, Python
from rbee.ssh.repack import repack, tags_of
from rbee.ssh.target import Target

Way = Literal["nothing", "pip", "uv", "python"]
_STANDALONE = re.compile(r"cpython-(\d+\.\d+\.\d+)[+\w]*-(?:linux|macos)-\w+-\w+")
"""How uv calls the folders of the Pythons it fetches, which run from any place."""
_NOT_SENT = frozenset({"__pycache__", "test", "idlelib", "tkinter", "turtledemo", "include"})


@dataclass(frozen=True)
class Tools:
    """Files on this machine, for `Order`."""

    pip: Path | None = None
    uv: Path | None = None
    python_archive: Path | None = None


def way(facts: Facts, python: Python | None, *, online: bool, standalone: bool) -> Way:
    """What has to be sent. Raises InstallFailed where nothing helps."""
    if python is not None and python.venv:
        return "nothing"
    if python is not None and python.bare:
        return "pip"
    if python is not None:
        return "nothing" if facts.uv else "uv"
    if standalone:
        return "python"
    if online:
        return "nothing" if facts.uv else "uv"
    raise InstallFailed(
        f"{facts.name or facts.os} has no Python of at least 3.11, and the queen has none to send",
        action="Install python3.11 or newer there, or let the machine use the internet "
        "(--online), where uv fetches one.",
        step="choose Python",
    )


def standalone(target: Target, own: Target, prefix: str = sys.base_prefix) -> Path | None:
    """The queen's own Python, when it runs from any place and on that machine, too."""
    same = (own.system, own.arch, own.libc) == (target.system, target.arch, target.libc)
    folder = Path(prefix)
    if not same or own.version > target.version or not _STANDALONE.fullmatch(folder.name):
        return None
    return folder if (folder / "bin" / "python3").exists() else None


async def tools(
    needed: Way, target: Target, cache: Path, tell: Callable[[str], None], prefix: Path | None
) -> Tools:
    """Gather them. `prefix`: of the Python to send. Raises InstallFailed."""
    if needed == "pip":
        wheel = await anyio.to_thread.run_sync(_pip, cache)
        if wheel is not None:
            return Tools(pip=wheel)
        needed = "uv"
    if needed == "uv":
        return Tools(uv=await _uv(target, cache, tell))
    if needed == "python" and prefix is not None:
        tell(f"packing Python {prefix.name}")
        return Tools(python_archive=await anyio.to_thread.run_sync(archived, prefix, cache))
    return Tools()


def archived(prefix: Path, cache: Path) -> Path:
    """A Python as an archive with one folder, without its tests and what is for compiling.

    Blocking; made once.
    """
    made = cache / "python" / f"{prefix.name}.tar.gz"
    if made.exists():
        os.utime(made)
        return made
    made.parent.mkdir(parents=True, exist_ok=True)

    def chosen(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        path = PurePosixPath(entry.name)
        if _NOT_SENT & set(path.parts) or path.suffix == ".a":
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    with tempfile.NamedTemporaryFile(dir=made.parent, prefix=".new-", delete=False) as file:
        new = Path(file.name)
        try:
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as archive:
                archive.add(prefix, "python", filter=chosen)
            file.close()
            os.replace(new, made)
        finally:
            new.unlink(missing_ok=True)
    return made


def _pip(cache: Path) -> Path | None:
    try:
        return repack(distribution("pip"), cache / "packed")
    except (PackageNotFoundError, InstallFailed):
        return pip.bundled_pip()


async def _uv(target: Target, cache: Path, tell: Callable[[str], None]) -> Path:
    place = cache / "uv" / f"{target.system}-{target.arch}-{target.libc or 'any'}"
    found = await anyio.to_thread.run_sync(_own_uv, target, place)
    if found is not None:
        return found
    tell("fetching uv for that machine")
    folder = Path(await anyio.to_thread.run_sync(lambda: tempfile.mkdtemp(prefix="rbee-uv-")))
    try:
        words = pip.download_command(target, ["uv"], folder)
        ended = await pip.run(words, limit=pip.DOWNLOAD_LIMIT)
        if ended.status != 0:
            raise InstallFailed(
                f"uv, which makes environments where Python cannot, could not be fetched for "
                f"{target}: {ended.why}",
                action="Install python3-venv there, or give the queen access to her package index.",
                step="packages",
                tail=ended.tail,
            )
        return await anyio.to_thread.run_sync(_unpacked, folder, place)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))


def _own_uv(target: Target, place: Path) -> Path | None:
    """What was fetched before, else what is installed beside rbee and runs there."""
    if (place / "uv").exists():
        return place / "uv"
    try:
        dist = distribution("uv")
    except PackageNotFoundError:
        return None
    binaries = [file for file in dist.files or () if file.name == "uv" and "bin" in file.parts]
    if not binaries or not any(tag in target.tags for tag in tags_of(dist)):
        return None
    return Path(str(dist.locate_file(binaries[0]))).resolve()


def _unpacked(folder: Path, place: Path) -> Path:
    """The program in the wheel that was fetched."""
    for wheel in folder.glob("uv-*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if re.fullmatch(r"uv-[^/]+\.data/scripts/uv", name):
                    place.mkdir(parents=True, exist_ok=True)
                    new = place / f".uv-{os.getpid()}"
                    new.write_bytes(archive.read(name))
                    new.chmod(0o755)
                    os.replace(new, place / "uv")
                    return place / "uv"
    raise InstallFailed("the package uv has no program for that machine", step="packages")
