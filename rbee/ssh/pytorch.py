"""Which build of PyTorch a machine would get, said before it is installed.

Owns that sentence only. PyTorch's builds have one name and several indexes: what is sent or fetched
is chosen by name and version alone, so a machine may get a build that ignores its GPU, or one of
several GB that has none to run on.
"""

from __future__ import annotations

from collections.abc import Collection

from packaging.version import InvalidVersion, Version

from rbee.ssh.probe import Facts

PACKAGE = "torch"
_BUILT_FOR = ("x86_64", "aarch64", "arm64")
_FETCHED = (
    "PyTorch comes from a package index: on Linux PyPI's is the build for CUDA, with its libraries"
    " some 3 GB. A queen of the same kind with another build sends hers instead."
)
_EXTRAS = frozenset({PACKAGE, "all"})


def notes(facts: Facts, extras: Collection[str], sent: str | None) -> list[str]:
    """What to know of it; `sent`: the version that the queen sends, None: a package index's."""
    if not _EXTRAS & set(extras):
        return []
    if sent is None:
        return [_FETCHED] if facts.os == "Linux" and facts.arch in _BUILT_FOR else []
    gpu = next((gpu for gpu in facts.gpus if gpu.kind in ("nvidia", "amd")), None)
    told = f"PyTorch is sent as the queen has it ({sent})"
    if _built(sent) == "cpu" and gpu is not None:
        told += f", built for the CPU: it will not use the {gpu.label or 'GPU'} there"
        told += "; `rbee doctor` there tells how to put in another build"
    return [f"{told}."]


def _built(version: str) -> str:
    """`cpu`, `cu128`, …; empty where the version does not tell."""
    try:
        return Version(version).local or ""
    except InvalidVersion:
        return ""
