"""The packages that rbee needs on a machine, as wheels: packed from the queen's own, or fetched.

Owns the choice for each package and the cache of them. What rbee needs is given.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email import message_from_string
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import TypeAlias

import anyio
import anyio.to_thread
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, NormalizedName, parse_wheel_filename
from packaging.version import Version

from rbee.errors import InstallFailed
from rbee.ssh import pip
from rbee.ssh.needed import Need, walk
from rbee.ssh.repack import is_editable, metadata_of, repack, tags_of
from rbee.ssh.target import Target

Tell = Callable[[str, float | None], None]
_ROUNDS = 8
"""A package that the queen does not have may need further ones; each round asks for those."""


Wanted: TypeAlias = tuple[str, ...]
"""What pip is asked for, the best first: `numpy==2.4.6`, `numpy>=1.26`."""


@dataclass(frozen=True)
class Division:
    """Which of the packages a machine needs are packed from what the queen has."""

    packed: dict[NormalizedName, Distribution]
    fetched: dict[NormalizedName, Wanted]


def divide(
    requires: Iterable[str],
    extras: Iterable[str],
    target: Target,
    own: Target,
    given: Mapping[str, Path | None],
    fetched: Mapping[NormalizedName, Path] | None = None,
) -> Division:
    """For each package that is needed, whether the queen's own runs there. Blocking, but quick.

    `given`: packages that come from elsewhere, with their wheels where there are any already;
    `fetched`: wheels whose requirements count in place of the installed packages'.
    """
    wheels = {**given, **(fetched or {})}
    beside = {name: _requires_of(path) for name, path in wheels.items() if path is not None}

    def lookup(name: NormalizedName) -> list[str] | None:
        if name in beside:
            return beside[name]
        dist = _installed(name)
        return list(dist.requires or ()) if dist is not None and _admits(dist, target) else None

    needs = walk(requires, extras, target.environment, lookup)
    packed: dict[NormalizedName, Distribution] = {}
    asked: dict[NormalizedName, Wanted] = {}
    for name, need in needs.items():
        dist = _installed(name)
        if name in given:
            continue
        if dist is not None and _runs(dist, target, own):
            packed[name] = dist
        else:
            asked[name] = _asked(need, dist, target)
    return Division(packed, asked)


def size_of(packed: Iterable[Distribution]) -> int:
    """About how many bytes their wheels take: a third of the files."""
    return sum(file.size or 0 for dist in packed for file in dist.files or ()) // 3


async def gather(
    requires: Iterable[str],
    extras: Iterable[str],
    target: Target,
    own: Target,
    cache: Path,
    tell: Tell,
    given: Mapping[str, Path | None],
) -> list[Path]:
    """All the wheels but those `given`. Raises InstallFailed that names what is missing."""
    needed, wished = list(requires), list(extras)
    store = _Store(target, cache / "fetched", tell)
    for _ in range(_ROUNDS):
        division = await anyio.to_thread.run_sync(
            divide, needed, wished, target, own, given, store.found
        )
        wanted = {n: texts for n, texts in division.fetched.items() if n not in store.found}
        if not wanted:
            break
        await store.fetch(wanted)
    else:
        raise InstallFailed("packages need further packages without end", step="packages")
    wheels = [store.found[name] for name in division.fetched]
    damaged: dict[NormalizedName, Wanted] = {}
    for number, (name, dist) in enumerate(division.packed.items()):
        tell(f"packing {dist.name}", number / len(division.packed))
        try:
            wheels.append(await anyio.to_thread.run_sync(repack, dist, cache / "packed"))
        except InstallFailed as exc:
            tell(exc.message, None)
            damaged[name] = (f"{name}=={dist.version}",)
    if damaged:
        await store.fetch(damaged)
    return sorted([*wheels, *(store.found[name] for name in damaged)])


class _Store:
    """The wheels that were fetched for a machine: from the cache, else with pip."""

    def __init__(self, target: Target, cache: Path, tell: Tell) -> None:
        self.found: dict[NormalizedName, Path] = {}
        self._target, self._cache, self._tell = target, cache, tell
        self._why, self._tail, self._unreachable = "", list[str](), False

    async def fetch(self, wanted: dict[NormalizedName, Wanted]) -> None:
        """All at once; then what is missing one by one, in other versions where need be."""
        await self._look(wanted)
        await self._ask([texts[0] for name, texts in wanted.items() if name not in self.found])
        await self._look(wanted)
        for name, texts in wanted.items():
            for text in texts:
                if name not in self.found and not self._unreachable:
                    await self._ask([text])
                    await self._look(wanted)
        lacking = sorted(texts[0] for name, texts in wanted.items() if name not in self.found)
        if lacking:
            raise _missing(lacking, self._target, self._why, self._tail)

    async def _look(self, wanted: dict[NormalizedName, Wanted]) -> None:
        self.found |= await anyio.to_thread.run_sync(_cached, wanted, self._target, self._cache)

    async def _ask(self, texts: list[str]) -> None:
        if not texts:
            return
        named = ", ".join(texts[:3]) + (" …" if len(texts) > 3 else "")
        self._tell(f"fetching {named} for {self._target}", None)
        folder = await anyio.to_thread.run_sync(_new_folder, self._cache)
        try:
            words = pip.download_command(self._target, texts, folder)
            ended = await pip.run(words, limit=pip.DOWNLOAD_LIMIT)
            if ended.status != 0:
                self._why, self._tail = ended.why, ended.tail
                self._unreachable = ended.unreachable
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_moved, folder, self._cache)


def _missing(lacking: list[str], target: Target, why: str, tail: list[str]) -> InstallFailed:
    named = ", ".join(lacking[:8]) + (f" and {len(lacking) - 8} more" if len(lacking) > 8 else "")
    return InstallFailed(
        f"the queen has no {named} for {target}, and could not fetch "
        f"{'it' if len(lacking) == 1 else 'them'}: {why or 'pip found no wheel'}",
        action="Let the machine fetch packages from its own package index (--online), or give the "
        "queen access to one (PIP_INDEX_URL, or a folder of wheels in PIP_FIND_LINKS).",
        step="packages",
        missing=lacking,
        platform=str(target),
        tail=tail,
    )


def _cached(
    wanted: dict[NormalizedName, Wanted], target: Target, cache: Path
) -> dict[NormalizedName, Path]:
    """For each the best wheel that was fetched before and runs there."""
    found: dict[NormalizedName, tuple[tuple[int, Version], Path]] = {}
    for path in cache.glob("*.whl"):
        try:
            name, version, _, tags = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        admitted = [SpecifierSet(text[len(name) :]) for text in wanted.get(name, ())]
        ranks = [
            -rank for rank, each in enumerate(admitted) if each.contains(version, prereleases=True)
        ]
        if not ranks or not any(tag in target.tags for tag in tags):
            continue
        best = (ranks[0], version)
        if name not in found or found[name][0] < best:
            found[name] = best, path
    for _, path in found.values():
        os.utime(path)
    return {name: path for name, (_, path) in found.items()}


def _new_folder(cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=cache, prefix=".new-"))


def _moved(folder: Path, cache: Path) -> None:
    """What is whole is kept, even when pip was ended: the end of a zip file is its directory."""
    for wheel in folder.glob("*.whl"):
        if zipfile.is_zipfile(wheel):
            os.replace(wheel, cache / wheel.name)
    shutil.rmtree(folder, ignore_errors=True)


def _asked(need: Need, dist: Distribution | None, target: Target) -> Wanted:
    admitted = f"{need.name}{need.versions}"
    if dist is None or not _admits(dist, target):
        return (admitted,)
    return (f"{need.name}=={dist.version}", admitted)


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _runs(dist: Distribution, target: Target, own: Target) -> bool:
    if is_editable(dist) or not dist.read_text("RECORD") or not _admits(dist, target):
        return False
    return target.runs(tags_of(dist), own)


def _admits(dist: Distribution, target: Target) -> bool:
    """Whether that version is for the machine's Python at all."""
    try:
        admitted = SpecifierSet(str(dist.metadata.json.get("requires_python") or ""))
    except InvalidSpecifier:
        return False
    return admitted.contains(".".join(map(str, target.python)), prereleases=True)


def _requires_of(wheel: Path) -> list[str]:
    told = message_from_string(re.split(r"\n\s*\n", metadata_of(wheel), maxsplit=1)[0])
    return [str(text) for text in told.get_all("Requires-Dist") or ()]
