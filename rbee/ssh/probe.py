"""What another machine is and has, before anything is put there.

Owns the script `probe.sh`, which is given to `sh` on its stdin and changes nothing, and the strict
reading of the one line it prints. What it says is a claim of that machine: bounded, typed and
never run.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import PurePosixPath
from typing import Annotated

import msgspec

from rbee.errors import RbeeError, RemoteCommandFailed
from rbee.protocol.base import Request, Wire, decode
from rbee.ssh import flags
from rbee.ssh.session import Session

MARK = "rbee-probe "
PROBE_LIMIT = 120.0
"""Seconds; tools for GPUs take some when their driver wakes up."""
LEAST_PYTHON = (3, 11)


class Python(Request, frozen=True, kw_only=True):
    """A Python that is new enough. `venv`: whether it can make virtual environments by itself."""

    path: Annotated[str, msgspec.Meta(max_length=4096)]
    version: Annotated[str, msgspec.Meta(max_length=20)]
    venv: bool
    bare: bool = False
    """It can make environments, if perhaps without pip."""
    bits: int = 64

    @property
    def number(self) -> tuple[int, ...]:
        """(3, 12, 1)."""
        return tuple(int(part) for part in self.version.split(".") if part.isdecimal())


class Gpu(Wire, frozen=True, kw_only=True):
    """A hint that there is one; `memory` in bytes. A hive's own reading is the truth."""

    kind: str
    """nvidia, amd, metal or vulkan."""
    label: str = ""
    memory: int | None = None
    driver: str = ""


class _Line(Request, frozen=True, kw_only=True):
    os: str
    arch: str
    kernel: str
    name: str
    libc: str
    user: str
    home: str
    shell: str
    root: str
    cores: int | None
    memory: int | None
    memory_free: int | None
    disk_free: int | None
    pythons: list[Python]
    gpus: list[str]
    installed: list[str]
    current: str
    previous: str
    uv: str
    compiler: str
    libs: list[str] = []
    cpu: str = ""
    end: bool


class Facts(Wire, frozen=True, kw_only=True):
    """One machine. Amounts in bytes, None: could not be read; empty text: there is none."""

    os: str
    """Linux, Darwin, …"""
    arch: str
    """x86_64, aarch64, arm64, …"""
    kernel: str
    name: str
    """For people: `Debian GNU/Linux 12 (bookworm)`."""
    libc: str
    """`glibc`, `musl` or empty."""
    libc_version: str
    user: str
    home: str
    shell: str
    root: str
    """Where rbee is, or would be, installed."""
    cores: int | None
    memory: int | None
    memory_free: int | None
    disk_free: int | None
    pythons: list[Python]
    """At least 3.11, each once, the newest that can make environments first."""
    gpus: list[Gpu]
    installed: list[str]
    current: str
    previous: str
    uv: str
    compiler: str
    libs: list[str] = []
    """Which of libgomp.so.1, libstdc++.so.6 and libgcc_s.so.1 there are (Linux)."""
    cpu: list[str] = []
    """What its CPU can do, in the words of Linux (`avx2`, `asimddp`) or of macOS (`FEAT_BF16`)."""


async def probe(session: Session, root: str | None = None, python: str | None = None) -> Facts:
    """Ask a machine. `root`: another place for rbee than ~/.local/share/rbee; `python`: one more
    to look at.

    Raises RemoteCommandFailed when its answer makes no sense, ConnectionFailed, TimedOut.
    """
    script = files("rbee.ssh").joinpath("probe.sh").read_bytes()
    done = await session.run(
        ["sh", "-s", "--", root or "", python or ""], stdin=script, timeout=PROBE_LIMIT
    )
    for line in reversed(done.stdout.decode("utf-8", "replace").splitlines()):
        if line.startswith(MARK):
            return read(line.removeprefix(MARK), str(session.machine))
    raise _senseless(str(session.machine), "it printed no answer", done.last_lines)


def read(line: str, machine: str) -> Facts:
    """The facts of the script's line. Raises RemoteCommandFailed for anything else."""
    try:
        raw = decode(line, _Line)
    except RbeeError as exc:
        raise _senseless(machine, exc.message, []) from exc
    for name, path in (("home", raw.home), ("root", raw.root)):
        if not PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise _senseless(machine, f"its {name} {path[:80]!r} is no absolute path", [])
    libc, _, version = raw.libc.partition(" ")
    pythons = {python.path: python for python in raw.pythons}
    return Facts(
        os=raw.os,
        arch=raw.arch,
        kernel=raw.kernel,
        name=raw.name,
        libc=libc if libc in ("glibc", "musl") else "",
        libc_version=version,
        user=raw.user,
        home=raw.home,
        shell=raw.shell,
        root=str(PurePosixPath(raw.root)),
        cores=raw.cores,
        memory=raw.memory,
        memory_free=raw.memory_free,
        disk_free=raw.disk_free,
        pythons=sorted(
            (p for p in pythons.values() if p.path.startswith("/") and p.number >= LEAST_PYTHON),
            key=lambda p: (p.venv, p.number),
            reverse=True,
        ),
        gpus=[_gpu(text) for text in raw.gpus],
        installed=raw.installed,
        current=raw.current,
        previous=raw.previous,
        uv=raw.uv,
        compiler=raw.compiler,
        libs=raw.libs,
        cpu=sorted({flags.name(word) for word in raw.cpu.split()}),
    )


def _gpu(text: str) -> Gpu:
    """`kind, label, MiB, driver`."""
    kind, label, memory, driver, *_ = [*(part.strip() for part in text.split(",")), "", "", ""]
    mib = int(memory) if memory.isascii() and memory.isdigit() else None
    return Gpu(kind=kind, label=label, memory=mib << 20 if mib else None, driver=driver)


def _senseless(machine: str, why: str, tail: list[str]) -> RemoteCommandFailed:
    said = f": {' / '.join(tail)}" if tail else ""
    return RemoteCommandFailed(
        f"{machine} could not be looked at: {why}{said}",
        action="It needs a POSIX shell: try `ssh HOST sh -c 'uname -a'`.",
        tail=tail,
    )
