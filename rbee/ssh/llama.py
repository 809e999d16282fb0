"""Where a machine's llama-cpp-python comes from: its index has sources only, so somebody compiles.

Owns the choice among what is there already and who compiles, and what each takes; the choice is
pure. Building is `llamawheel`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from rbee.ssh import flags
from rbee.ssh.probe import Facts
from rbee.ssh.target import Target

PACKAGE = "llama-cpp-python"
TAKES = "5 to 20 minutes, once"
_GPU = {"cuda": "nvidia", "metal": "metal", "vulkan": "vulkan", "hip": "amd"}
"""What llama.cpp is built for, and the kind of `Facts.gpus` that it takes."""


@dataclass(frozen=True)
class Flavour:
    """A way to compile for many CPUs: what the CPU must have, and what cmake is told."""

    name: str
    needs: frozenset[str]
    cmake: tuple[str, ...]


_OFF = tuple(f"-DGGML_{name}=OFF" for name in ("AVX", "AVX2", "FMA", "F16C", "BMI2"))
FLAVOURS = {
    "x86_64": (
        Flavour("avx2", flags.needs(flags.PORTABLE, "x86_64", ()), ("-DGGML_NATIVE=OFF",)),
        Flavour("sse42", frozenset({"sse4_2"}), ("-DGGML_NATIVE=OFF", *_OFF)),
    ),
}
ANY = (Flavour("any", frozenset(), ("-DGGML_NATIVE=OFF",)),)
"""For every other architecture."""


@dataclass(frozen=True)
class Installed:
    """The queen's own llama-cpp-python."""

    version: str
    tags: frozenset[Tag]
    features: tuple[str, ...]
    """ggml's words for what its CPU code uses; empty with `variants`."""
    kinds: tuple[str, ...]
    """cpu, cuda, metal, …"""
    variants: bool = False
    """It has code for every CPU and picks one."""


@dataclass(frozen=True)
class Kept:
    """A wheel that was compiled earlier. `libc`: the version it was compiled with."""

    wheel: Path
    flavour: str
    libc: tuple[int, int]


@dataclass(frozen=True)
class Queen:
    """What the queen's machine can give."""

    target: Target
    cpu: frozenset[str]
    compiler: str = ""
    installed: Installed | None = None
    kept: tuple[Kept, ...] = ()


@dataclass(frozen=True)
class Source:
    """Where it comes from; for `none`, why it does not."""

    way: Literal["kept", "installed", "queen", "there", "none"]
    why: str
    wheel: Path | None = None
    flavour: Flavour | None = None
    notes: tuple[str, ...] = ()


def choose(facts: Facts, target: Target, queen: Queen, *, online: bool) -> Source:
    """What costs least: sent as it is, then compiled there, then compiled here."""
    notes: list[str] = []
    refused = _why_not_ours(facts, target, queen)
    if refused == "" and queen.installed is not None:
        why = f"the queen's own {queen.installed.version} runs on its CPU"
        return Source("installed", why, notes=tuple(_gpu_notes(facts, queen.installed.kinds)))
    if refused and _same_system(target, queen):  # else it goes without saying
        notes.append(refused)
    notes += _gpu_notes(facts, ("cpu",))
    fitting = [flavour for flavour in flavours(target) if _runs(flavour, facts)]
    for flavour in fitting:
        for kept in queen.kept:
            if kept.flavour == flavour.name and _kept_fits(kept, target):
                why = "the queen compiled it earlier for machines like this one"
                return Source("kept", why, kept.wheel, flavour, tuple(notes))
    if online and facts.compiler:
        why = f"compiled there with {facts.compiler}: {TAKES}"
        return Source("there", why, notes=tuple(notes))
    if _same_system(target, queen) and queen.compiler and fitting:
        why = f"compiled on the queen's machine with {queen.compiler}: {TAKES}"
        return Source("queen", why, None, fitting[0], tuple(notes))
    return Source("none", _nobody(facts, target, queen, fitting), notes=tuple(notes))


def flavours(target: Target) -> tuple[Flavour, ...]:
    """The ways to compile for machines like that one, the fastest first."""
    return FLAVOURS.get(target.arch, ANY)


def place_of(target: Target, flavour: Flavour) -> str:
    """The name of the folder for what was compiled: `linux-x86_64-glibc-2.36-avx2`."""
    number = ".".join(map(str, target.version))
    words = (target.system.lower(), target.arch, target.libc or "any", number, flavour.name)
    return "-".join(words)


def kept(folder: Path) -> tuple[Kept, ...]:
    """What was compiled earlier, by `place_of`; the newest version first. Blocking."""
    found: list[tuple[tuple[int, ...], Kept]] = []
    for wheel in folder.glob("*-*-*-*-*/llama_cpp_python-*.whl"):
        *_, libc, flavour = wheel.parent.name.split("-")
        try:
            _, version, _, _ = parse_wheel_filename(wheel.name)
            major, minor = map(int, libc.split("."))
        except (InvalidWheelFilename, ValueError):
            continue
        found.append((version.release, Kept(wheel, flavour, (major, minor))))
    return tuple(each for _, each in sorted(found, key=lambda pair: pair[0], reverse=True))


def _why_not_ours(facts: Facts, target: Target, queen: Queen) -> str:
    """Why the queen's own does not run there; empty: it does, or she has none."""
    ours = queen.installed
    if ours is None:
        return ""
    if not target.runs(ours.tags, queen.target):
        return f"the queen's llama.cpp is for {queen.target.machine}, not for {target.machine}"
    unusable = [kind for kind in ours.kinds if kind != "cpu" and not _has_gpu(facts, kind)]
    if unusable:
        return f"the queen's llama.cpp is built for {', '.join(unusable)}, which is not there"
    if ours.variants:
        return ""
    if not ours.features:
        return "the queen's llama.cpp does not tell which CPU it was built for"
    wanted = flags.needs(ours.features, target.arch, queen.cpu)
    if wanted and not facts.cpu:
        return "what its CPU can do could not be read, and the queen's llama.cpp needs a like one"
    lacking = flags.lacking(wanted, facts.cpu)
    if lacking:
        return (
            "the queen's llama.cpp was built for her CPU, and the one there lacks "
            f"{', '.join(lacking[:6])}{' and more' if len(lacking) > 6 else ''}"
        )
    return ""


def _runs(flavour: Flavour, facts: Facts) -> bool:
    return not flags.lacking(flavour.needs, facts.cpu)


def _kept_fits(kept: Kept, target: Target) -> bool:
    _, _, _, tags = parse_wheel_filename(kept.wheel.name)
    return kept.libc <= target.version and any(tag in target.tags for tag in tags)


def _same_system(target: Target, queen: Queen) -> bool:
    ours = queen.target
    same = (ours.system, ours.arch, ours.libc) == (target.system, target.arch, target.libc)
    return same and ours.version <= target.version


def _has_gpu(facts: Facts, kind: str) -> bool:
    return any(gpu.kind == _GPU.get(kind) for gpu in facts.gpus)


def _gpu_notes(facts: Facts, kinds: Sequence[str]) -> list[str]:
    usable = {_GPU.get(kind) for kind in kinds}
    idle = [gpu for gpu in facts.gpus if gpu.kind in ("nvidia", "amd") and gpu.kind not in usable]
    if not idle:
        return []
    name = idle[0].label or f"the {idle[0].kind} GPU"
    how = "`rbee doctor` there says how to build it for the GPU"
    return [f"llama.cpp will use the CPU there, not {name}: {how}"]


def _nobody(facts: Facts, target: Target, queen: Queen, fitting: Sequence[Flavour]) -> str:
    """Why nobody compiles it."""
    if not _same_system(target, queen):
        ours = queen.target.machine
        here = f"the queen's machine is {ours} and cannot compile it for {target.machine}"
    elif not fitting:
        here = "its CPU is older than those that llama.cpp is compiled for here"
    else:
        here = "the queen's machine has no C++ compiler"
    there = "with --online" if facts.compiler else "with a C++ compiler there and --online"
    return f"{here}; {there}, that machine compiles it ({TAKES})"
