"""The wheel of llama-cpp-python for a machine: packed from what runs here, or compiled and kept.

Owns the cache `llama/` of the wheelhouse. Which way is taken is `llama`'s.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from rbee.errors import InstallFailed
from rbee.ssh import flags, pip
from rbee.ssh.llama import PACKAGE, Flavour, Installed, Queen, Source, kept, place_of
from rbee.ssh.probe import Facts
from rbee.ssh.repack import Leave, record_hash, repack, rewritten, tags_of
from rbee.ssh.target import Target, here

Tell = Callable[[str, float | None], None]
REPORT_LIMIT = 60.0
"""Seconds for loading the library and asking its devices; a driver that wakes up takes some."""
_STEP = re.compile(r"^\s*\[(\d+)/(\d+)\]")
_VERSIONED = re.compile(r"(.+\.so\.\d+)\.\d+(\.\d+)*")
_LIBRARY = re.compile(rb"lib(?:gomp|stdc\+\+|gcc_s)\.so\.\d+")
_SYSTEM = ("/lib", "/usr/lib", "/lib64", "/usr/lib64")


def queen(cache: Path) -> Queen:
    """What this machine has to give. Blocking, a second the first time: the library is loaded, in
    a process of its own."""
    folder = cache / "llama"
    return Queen(
        target=here(),
        cpu=flags.own(),
        compiler=_compiler(),
        installed=_installed(folder),
        kept=kept(folder),
    )


async def supply(
    source: Source, target: Target, facts: Facts, version: str | None, cache: Path, tell: Tell
) -> Path | None:
    """The wheel of a source; None where none is sent. Raises InstallFailed."""
    folder = cache / "llama"
    if source.way == "installed":
        tell("packing llama-cpp-python as it is installed here", None)
        wheel = await anyio.to_thread.run_sync(_packed, folder)
    elif source.way == "kept":
        wheel = source.wheel
    elif source.way == "queen" and source.flavour is not None:
        wheel = await _compiled(target, source.flavour, version, folder, tell)
    else:
        return None
    if wheel is None or target.system != "Linux":
        return wheel
    return await anyio.to_thread.run_sync(_complete, wheel, set(facts.libs), folder)


def build(version: str | None, flavour: Flavour, folder: Path) -> tuple[list[str], dict[str, str]]:
    """The words for pip and the variables that compile a wheel for many CPUs."""
    wanted = f"{PACKAGE}=={version}" if version else PACKAGE
    arguments = " ".join(flavour.cmake)
    return pip.build_command(wanted, folder), {"CMAKE_ARGS": arguments, "FORCE_CMAKE": "1"}


def lean(names: Iterable[str]) -> Leave:
    """Leaves out what only those need who compile against llama.cpp: headers, and the libraries
    that stand a second time beside the package and a third time under their full version."""
    present = set(names)

    def leave(name: str) -> bool:
        top, _, rest = name.removeprefix("./").partition("/")
        if top in ("lib", "include") and rest:
            return True
        match = _VERSIONED.fullmatch(name)
        return match is not None and match[1] in present

    return leave


def _installed(folder: Path) -> Installed | None:
    dist = _distribution()
    if dist is None or not dist.files:
        return None
    told = _report(folder / f"report-{record_hash(dist)}.json")
    names = [file.name for file in dist.files]
    return Installed(
        version=dist.version,
        tags=tags_of(dist),
        features=tuple(map(str, told.get("features", ()))),
        kinds=tuple(map(str, told.get("kinds", ()))),
        variants=any(re.match(r"libggml-cpu-[a-z]\w*\.", name) for name in names),
    )


def _report(cached: Path) -> dict[str, Any]:
    """What the installed library says of itself; empty when it cannot be loaded."""
    try:
        found = json.loads(cached.read_bytes())
        return dict(found) if isinstance(found, dict) else {}
    except (OSError, ValueError):
        pass
    command = [sys.executable, "-I", "-m", "rbee.backends.llamacpp.report"]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=REPORT_LIMIT, check=False, cwd="/"
        )
        found = json.loads(done.stdout) if done.returncode == 0 else {}
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}
    if found:
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_text(json.dumps({name: found[name] for name in ("features", "kinds")}))
    return found


def _packed(folder: Path) -> Path:
    dist = _distribution()
    if dist is None:
        raise InstallFailed("llama-cpp-python is not installed here any more", step="packages")
    return repack(dist, folder / "packed", lean(str(file) for file in dist.files or ()))


async def _compiled(
    target: Target, flavour: Flavour, version: str | None, folder: Path, tell: Tell
) -> Path:
    place = folder / place_of(target, flavour)
    async with _alone(folder, tell):
        for made in await anyio.to_thread.run_sync(lambda: sorted(place.glob("*.whl"))):
            return made
        tell("compiling llama.cpp: 5 to 20 minutes, once", None)
        new = Path(await anyio.to_thread.run_sync(lambda: tempfile.mkdtemp(prefix="rbee-llama-")))
        try:
            words, env = build(version, flavour, new)

            def line(text: str) -> None:
                if (match := _STEP.match(text)) and int(match[2]):
                    tell("compiling llama.cpp", int(match[1]) / int(match[2]))

            ended = await pip.run(words, limit=pip.BUILD_LIMIT, line=line, env=env)
            return await anyio.to_thread.run_sync(_keep, ended, new, place)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(new, ignore_errors=True))


def _keep(ended: pip.Ended, new: Path, place: Path) -> Path:
    built = list(new.glob("llama_cpp_python-*.whl"))
    if ended.status != 0 or not built:
        raise InstallFailed(
            f"llama-cpp-python could not be compiled on the queen's machine: {ended.why}",
            action="Read the last lines; without it: rbee hive install NAME --extras ''.",
            step="compile llama.cpp",
            tail=ended.tail,
        )
    with zipfile.ZipFile(built[0]) as archive:
        names = archive.namelist()
    return rewritten(built[0], place / built[0].name, lean(names))


def _complete(wheel: Path, libs: set[str], folder: Path) -> Path:
    """With the compiler's own libraries in it where the machine has none: its libraries look
    beside themselves first (RUNPATH $ORIGIN)."""
    with zipfile.ZipFile(wheel) as archive:
        shared = [name for name in archive.namelist() if ".so" in Path(name).name]
        wanted: dict[str, str] = {}
        for name in shared:
            for found in _LIBRARY.findall(archive.read(name)):
                wanted.setdefault(found.decode(), str(Path(name).parent))
    missing = {name: place for name, place in wanted.items() if name not in libs}
    ours = {f"{place}/{name}": path for name, place in missing.items() if (path := _here(name))}
    if not ours:
        return wheel
    key = "+".join(sorted(Path(name).name for name in ours))
    target = folder / "with" / wheel.parent.name / key / wheel.name
    return target if target.exists() else rewritten(wheel, target, add=ours)


def _here(name: str) -> Path | None:
    for folder in _SYSTEM:
        for path in (Path(folder) / name, *Path(folder).glob(f"*-linux-*/{name}")):
            if path.exists():
                return path.resolve()
    return None


def _distribution() -> Distribution | None:
    try:
        return distribution(PACKAGE)
    except PackageNotFoundError:
        return None


def _compiler() -> str:
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), "")
    if found and sys.platform == "darwin":
        # it is there without the tools, too, and opens a window that offers them
        done = subprocess.run(["xcode-select", "-p"], capture_output=True, timeout=10, check=False)
        return found if done.returncode == 0 else ""
    return found


@asynccontextmanager
async def _alone(folder: Path, tell: Tell) -> AsyncGenerator[None]:
    """One compilation at a time on this machine; those who wait find it done."""
    await anyio.to_thread.run_sync(lambda: folder.mkdir(parents=True, exist_ok=True))
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        said = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not said:
                    tell("llama.cpp is being compiled for another machine: waiting for it", None)
                said = True
                await anyio.sleep(1)
        yield
    finally:
        os.close(lock)
