"""What is sent to a machine for rbee to be installed there: chosen by what it is, then gathered.

Owns the way from a machine's facts and a person's wish to an `Order`; what the order does there is
`plan`'s. Gathers on this machine only: packs what is installed here, asks the package index of this
machine for the rest, and compiles llama.cpp once where nobody has it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path

import anyio
import anyio.to_thread
from packaging.utils import canonicalize_name, parse_wheel_filename

from rbee.errors import InstallFailed, ValidationFailed
from rbee.ssh import llama, llamawheel, ownwheel, pytorch
from rbee.ssh.packages import Division, divide, gather, size_of
from rbee.ssh.plan import Extra, Order
from rbee.ssh.probe import Facts, Python
from rbee.ssh.repack import bundle
from rbee.ssh.target import Target, choose_python, here, target
from rbee.ssh.tools import Way, standalone, tools, way

Tell = Callable[[str, float | None], None]
"""Hears a sentence, and how far it is from 0 to 1; None: nobody knows."""
KEPT_DAYS = 60
SMALL = 1 << 20
"""Each file costs four round trips; a larger one is worth going on with after a broken transfer."""


@dataclass(frozen=True)
class Wish:
    """What a person asked for. `extras`: None: those that suit the machine."""

    extras: tuple[str, ...] | None = None
    online: bool = False
    root: str | None = None
    python: str | None = None


@dataclass(frozen=True)
class Outlook:
    """What will happen and about how long, for people, before anything starts."""

    extras: list[Extra]
    notes: list[str]


@dataclass(frozen=True)
class _Choice:
    """Everything that is decided before anything is gathered."""

    own: Distribution
    requires: list[str]
    python: Python | None
    target: Target
    queen: llama.Queen
    source: llama.Source
    extras: list[Extra]
    way: Way
    prefix: Path | None

    @property
    def chosen(self) -> tuple[str, ...]:
        return tuple(extra.name for extra in self.extras if extra.chosen)


def outlook(facts: Facts, wish: Wish, cache: Path) -> Outlook:
    """Look ahead: no network, nothing is built. Blocking, up to some seconds the first time.

    Raises InstallFailed where there is no way, ValidationFailed for an extra that does not exist.
    """
    choice = _choose(facts, wish, cache)
    return Outlook(choice.extras, _notes(choice, facts, wish))


async def supply(facts: Facts, wish: Wish, cache: Path, tell: Tell) -> Order:
    """Gather all that is sent. Raises InstallFailed, ValidationFailed."""
    choice = await anyio.to_thread.run_sync(_choose, facts, wish, cache)
    await anyio.to_thread.run_sync(_swept, cache)
    own = await ownwheel.own_wheel(choice.own, cache, lambda text: tell(text, None))
    compiled, extras = await _llama(choice, facts, wish, cache, tell)
    wheels = [compiled] if compiled is not None else []
    if not wish.online:
        wheels += await gather(
            choice.requires, extras, choice.target, here(), cache, tell, {llama.PACKAGE: compiled}
        )
    large, small = await anyio.to_thread.run_sync(_sorted_out, wheels, cache)
    sent = await tools(
        choice.way, choice.target, cache, lambda text: tell(text, None), choice.prefix
    )
    return Order(
        version=str(parse_wheel_filename(own.name)[1]),
        wheel=own,
        wheels=large,
        bundle=small,
        extras=extras,
        online=wish.online,
        root=wish.root,
        python=_named(choice.python, facts, wish),
        uv=sent.uv,
        pip=sent.pip,
        python_archive=sent.python_archive,
    )


def choose_extras(
    facts: Facts,
    wished: tuple[str, ...] | None,
    known: Collection[str],
    source: llama.Source,
    *,
    nvidia: bool,
) -> list[Extra]:
    """Which extras a machine gets, and why. `nvidia`: its package can be had.

    Raises ValidationFailed for one that does not exist.
    """
    if wished is not None:
        if unknown := [name for name in wished if name not in known]:
            raise ValidationFailed(
                f"rbee has no extra {', '.join(unknown)}; it has {', '.join(sorted(known))}",
                field="extras",
                constraint=f"of {', '.join(sorted(known))}",
            )
        named = dict.fromkeys(wished)
        return [
            Extra(name, True, _compiled_why(source) if _has_llama([name]) else "asked for")
            for name in named
        ] + [Extra(name, False, "not asked for") for name in ("llamacpp", "nvidia")
             if name not in named and "all" not in named]  # fmt: skip
    chosen = [Extra("llamacpp", source.way != "none", source.why)]
    gpus = [gpu for gpu in facts.gpus if gpu.kind == "nvidia"]
    if not gpus:
        return [*chosen, Extra("nvidia", False, "no NVIDIA GPU was found")]
    if not nvidia:
        return [*chosen, Extra("nvidia", False, "the queen does not have nvidia-ml-py")]
    return [*chosen, Extra("nvidia", True, f"it has {gpus[0].label or 'an NVIDIA GPU'}")]


def _choose(facts: Facts, wish: Wish, cache: Path) -> _Choice:
    own, ours = ownwheel.installed(), here()
    python = choose_python(facts, wish.python, None if wish.online else ours.minor)
    prefix = standalone(target(facts, python), ours) if python is None else None
    needed = way(facts, python, online=wish.online, standalone=prefix is not None)
    goal = target(facts, python)
    if needed == "python":
        goal = Target(goal.system, goal.arch, goal.libc, goal.version, ours.python, goal.kernel)
    requires = ownwheel.requires(own)
    queen = llamawheel.queen(cache)
    source = llama.choose(facts, goal, queen, online=wish.online)
    divided = _divided(requires, ("nvidia",), goal)
    extras = choose_extras(
        facts, wish.extras, ownwheel.extras(own), source,
        nvidia=wish.online or "nvidia-ml-py" in divided.packed,
    )  # fmt: skip
    return _Choice(own, requires, python, goal, queen, source, extras, needed, prefix)


async def _llama(
    choice: _Choice, facts: Facts, wish: Wish, cache: Path, tell: Tell
) -> tuple[Path | None, tuple[str, ...]]:
    """Its wheel, and the extras as they are then: where nobody asked for it and it cannot be
    compiled, the machine is installed without."""
    if not _has_llama(choice.chosen):
        return None, choice.chosen
    try:
        if choice.source.way == "none":
            raise InstallFailed(
                f"there is no llama-cpp-python for {choice.target.machine}: {choice.source.why}",
                action="Install without it (--extras ''), or let the machine compile it: a C++ "
                "compiler there and --online.",
                step="compile llama.cpp",
            )
        version = choice.queen.installed.version if choice.queen.installed is not None else None
        wheel = await llamawheel.supply(choice.source, choice.target, facts, version, cache, tell)
        return wheel, choice.chosen
    except InstallFailed as exc:
        if wish.extras is not None:
            raise
        tell(f"going on without llama.cpp: {exc.message}", None)
        return None, tuple(name for name in choice.chosen if name != "llamacpp")


def _notes(choice: _Choice, facts: Facts, wish: Wish) -> list[str]:
    notes = [_python_note(choice)]
    if wish.online:
        notes.append("The machine fetches packages from its own package index.")
        notes += pytorch.notes(facts, choice.chosen, None)
    else:
        divided = _divided(choice.requires, choice.chosen, choice.target)
        dists = list(divided.packed.values())
        amount = f"{len(dists)} packages, about {max(1, size_of(dists) >> 20)} MiB"
        notes.append(f"Sent as they are installed here: {amount}.")
        if divided.fetched:
            names = sorted(divided.fetched)
            more = f" and {len(names) - 6} more" if len(names) > 6 else ""
            notes.append(
                f"Fetched by the queen for {choice.target}, which takes internet here: "
                f"{', '.join(names[:6])}{more}."
            )
        sent = divided.packed.get(canonicalize_name(pytorch.PACKAGE))
        notes += pytorch.notes(facts, choice.chosen, None if sent is None else sent.version)
    if _has_llama(choice.chosen):
        notes.append(f"llama.cpp: {choice.source.why}.")
    notes += [f"{note[0].upper()}{note[1:]}." for note in choice.source.notes]
    if not (_has_llama(choice.chosen) and choice.source.way in ("there", "queen")):
        notes.append("It takes about a minute, and longer over a slow line.")
    return notes


def _python_note(choice: _Choice) -> str:
    python = choice.python
    if choice.way == "pip" and python is not None:
        return f"Python {python.version} there ({python.path}) has no pip; the queen sends hers."
    if choice.way == "python":
        return f"No Python there: the queen sends her own, {choice.target.python[0]}."
    if python is None:
        return "No Python of at least 3.11 there: uv fetches one, about 30 MiB."
    if choice.way == "uv":
        return f"Python {python.version} there ({python.path}) cannot make environments; uv does."
    return f"Python {python.version} there ({python.path}) is used."


def _divided(requires: list[str], extras: Collection[str], goal: Target) -> Division:
    return divide(requires, extras, goal, here(), {llama.PACKAGE: None})


def _has_llama(extras: Collection[str]) -> bool:
    return "llamacpp" in extras or "all" in extras


def _compiled_why(source: llama.Source) -> str:
    return f"asked for; {source.why}"


def _named(python: Python | None, facts: Facts, wish: Wish) -> str | None:
    """Only where it is not the one that would be taken anyway."""
    usual = facts.pythons[0] if facts.pythons else None
    return wish.python or (python.path if python is not None and python != usual else None)


def _sorted_out(wheels: list[Path], cache: Path) -> tuple[tuple[Path, ...], Path | None]:
    """Those that are sent one by one, and the rest as one file."""
    small = [wheel for wheel in wheels if wheel.stat().st_size < SMALL]
    if len(small) < 3:
        return tuple(wheels), None
    large = tuple(wheel for wheel in wheels if wheel not in small)
    return large, bundle(small, cache / "bundles")


def _swept(cache: Path) -> None:
    """What nobody took for a while goes; what was compiled stays."""
    oldest = time.time() - KEPT_DAYS * 86400
    for pattern in ("fetched/*.whl", "packed/*/*.whl", "own/*/*.whl", "bundles/*.zip", "python/*"):
        for path in cache.glob(pattern):
            with suppress(OSError):  # another installation may sweep, too
                if path.stat().st_mtime < oldest:
                    path.unlink()
                    if pattern.count("/") == 2:
                        path.parent.rmdir()
