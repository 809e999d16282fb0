"""For what packages are gathered: a system, a CPU, a C library and a Python.

Owns which Python of a machine is used, which wheels run there (PEP 425, 600, 656) and what a
requirement's marker sees there. Pure.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from packaging import tags as pep425
from packaging.tags import Tag

from rbee.errors import InstallFailed
from rbee.ssh.plan import UV_PYTHON
from rbee.ssh.probe import Facts, Python

_WORD = re.compile(r"[A-Za-z0-9_]{1,30}")
_ARCH = {"amd64": "x86_64", "arm64": "aarch64"}
_32_BIT = {"x86_64": "i686", "aarch64": "armv7l"}
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


@dataclass(frozen=True)
class Target:
    """A machine's Python, as packages see it. `libc`: `glibc`, `musl` or empty; `python`: (3, 12)
    or longer."""

    system: str
    arch: str
    """x86_64, aarch64, …, on macOS arm64."""
    libc: str
    version: tuple[int, int]
    """Of the C library, or of macOS."""
    python: tuple[int, ...]
    kernel: str = ""

    @property
    def minor(self) -> tuple[int, int]:
        """(3, 12)."""
        return (self.python[0], self.python[1])

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platform tags of wheels that run there, the best first."""
        major, minor = self.version
        if self.system == "Darwin":
            return tuple(pep425.mac_platforms(self.version, self.arch))
        found: list[str] = []
        if self.libc == "glibc" and major == 2:
            for number in range(minor, 4 if self.arch in ("x86_64", "i686") else 16, -1):
                found.append(f"manylinux_2_{number}_{self.arch}")
                if number in _LEGACY:
                    found.append(f"{_LEGACY[number]}_{self.arch}")
        if self.libc == "musl" and major == 1:
            found += [f"musllinux_1_{number}_{self.arch}" for number in range(minor, -1, -1)]
        return (*found, f"linux_{self.arch}") if self.system == "Linux" else ()

    @cached_property
    def tags(self) -> frozenset[Tag]:
        """Of all wheels that run there."""
        digits = f"cp{self.minor[0]}{self.minor[1]}"
        return frozenset(
            [*pep425.cpython_tags(self.minor, [digits], self.platforms),
             *pep425.compatible_tags(self.minor, digits, self.platforms)]
        )  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """What markers see (PEP 508)."""
        full = ".".join(map(str, (*self.python, 0)[:3]))
        return {
            "implementation_name": "cpython",
            "implementation_version": full,
            "os_name": "posix",
            "platform_machine": self.arch,
            "platform_python_implementation": "CPython",
            "platform_release": self.kernel,
            "platform_system": self.system,
            "platform_version": "",
            "python_full_version": full,
            "python_version": ".".join(map(str, self.minor)),
            "sys_platform": "darwin" if self.system == "Darwin" else self.system.lower(),
        }

    def runs(self, tags: Iterable[Tag], made_on: Target) -> bool:
        """Whether a wheel with such tags runs there. A bare `linux_…` says nothing of the C
        library: what was compiled on `made_on` needs that machine's or a newer one."""
        ours = self.tags
        like = (self.system, self.libc) == (made_on.system, made_on.libc)
        newer = like and self.version >= made_on.version
        return any(tag in ours and (newer or not tag.platform.startswith("linux_")) for tag in tags)

    @property
    def machine(self) -> str:
        """`Linux aarch64 with glibc 2.36`, `macOS 14.5 arm64`."""
        number = ".".join(map(str, self.version))
        system = f"macOS {number}" if self.system == "Darwin" else self.system
        return f"{system} {self.arch}{f' with {self.libc} {number}' if self.libc else ''}"

    def __str__(self) -> str:
        joined = "and" if self.libc else "with"
        return f"{self.machine} {joined} Python {'.'.join(map(str, self.minor))}"


def here() -> Target:
    """This process's own."""
    kind, version, arch = "", (0, 0), platform.machine()
    for tag in pep425.platform_tags():
        if match := re.fullmatch(r"(manylinux|musllinux|macosx)_(\d+)_(\d+)_(\w+)", tag):
            kind, version, arch = match[1], (int(match[2]), int(match[3])), match[4]
            break
    libc = {"manylinux": "glibc", "musllinux": "musl"}.get(kind, "")
    return Target(platform.system(), arch, libc, version, tuple(sys.version_info[:3]))


def target(facts: Facts, python: Python | None) -> Target:
    """What packages must suit. No Python: that which uv fetches.

    Raises InstallFailed when the machine says things of itself that cannot be.
    """
    arch = facts.arch if facts.os == "Darwin" else _ARCH.get(facts.arch.lower(), facts.arch)
    if python is not None and python.bits == 32:
        arch = _32_BIT.get(arch, arch)
    number = python.number if python is not None else tuple(map(int, UV_PYTHON.split(".")))
    if not all(_WORD.fullmatch(word) for word in (facts.os, arch)) or max(number) > 99:
        raise InstallFailed(
            f"{facts.os[:40]!r} on {arch[:40]!r} with Python {str(number)[:40]} is no machine that "
            "rbee can be installed on",
            action="Look at what `uname -sm` and `python3 --version` say there.",
            step="choose Python",
        )
    system = facts.name if facts.os == "Darwin" else facts.libc_version
    return Target(facts.os, arch, facts.libc, _version(system), number, facts.kernel)


def choose_python(facts: Facts, named: str | None, minor: tuple[int, int] | None) -> Python | None:
    """The Python there to use: the one named, else one like `minor`, else the newest; None: none.

    Raises InstallFailed when the one named is not there.
    """
    if named is not None:
        for python in facts.pythons:
            if python.path == named:
                return python
        raise InstallFailed(
            f"{named} is no Python of at least 3.11 on {facts.name or facts.os}; found: "
            + (", ".join(f"{p.path} ({p.version})" for p in facts.pythons) or "none"),
            action="Name one of those that were found, or none.",
            step="choose Python",
        )
    able = [p for p in facts.pythons if p.venv] or [p for p in facts.pythons if p.bare]
    like = [p for p in able if minor is not None and p.number[:2] == minor]
    return next(iter([*like, *able, *facts.pythons]), None)


def _version(text: str) -> tuple[int, int]:
    match = re.search(r"(\d{1,2})(?:\.(\d{1,2}))?(?!\d)", text)
    return (int(match[1]), int(match[2] or 0)) if match else (0, 0)
