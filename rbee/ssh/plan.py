"""Putting rbee on another machine, as a list of steps: what to send, what to run, in which order.

Owns the choice of Python, of extras and of the place; never connects and never runs anything. The
steps are data, so that they can be shown before anything happens.

    <root>/versions/<version>-<hash>/   a virtual environment; `.incomplete` in it until proven
    <root>/wheels/<version>-<hash>/     what was sent for it; removed when it is installed
    <root>/bin/uv, <root>/python/       sent where the machine has no Python of its own
    <root>/current, <root>/previous     symlinks to a version
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from rbee.errors import InstallFailed, InsufficientDisk, ValidationFailed
from rbee.ssh.probe import Facts, Python
from rbee.ssh.sending import checked

UNPACKED = 4
"""A wheel's files take up to so many times its own size; measured on our own dependencies."""
DISK_MARGIN = 200 << 20
INSTALL_LIMIT = 3600.0
"""Seconds; a compilation of llama.cpp on a slow machine takes most of it."""
STEP_LIMIT = 300.0
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+!]{0,60}")
_EXTRA = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}")
UV_PYTHON = "3.12"
_PIP = ("--disable-pip-version-check", "--no-cache-dir", "install", "--no-input", "--quiet",
        "--no-compile")  # fmt: skip
"""Python compiles what is used when it is used first: half of the time and a quarter of the disk
that compiling everything takes, half a second at the first start."""

SWITCH = """
import os, sys
root, name = sys.argv[1], sys.argv[2]
def link(target, at):
    new = at + ".new"
    if os.path.lexists(new):
        os.unlink(new)
    os.symlink(target, new)
    os.replace(new, at)
current = os.path.join(root, "current")
before = os.readlink(current) if os.path.islink(current) else ""
if before and before != name:
    link(before, os.path.join(root, "previous"))
link(name, current)
"""
"""Python, because no command for it is the same everywhere: a rename over a symlink."""

_REMOVE = """
root=$1
for place in "$root"/versions/*-????????; do
  if [ -e "$place/.incomplete" ] || [ -e "$place/bin/rbee" ]; then rm -rf "$place" || exit 1; fi
done
rm -rf "$root"/wheels/*-???????? "$root"/python/cpython-* || exit 1
rm -rf "$root/python/.lock" "$root/python/.temp" "$root/python/.gitignore"
for link in current previous; do
  if [ -L "$root/$link" ]; then rm -f "$root/$link" || exit 1; fi
done
rm -f "$root/bin/uv"
for folder in versions wheels python bin; do rmdir "$root/$folder" 2>/dev/null; done
if [ -n "$2" ]; then
  data=${XDG_DATA_HOME:-$HOME/.local/share}/rbee
  [ "$(uname -s)" != Darwin ] || data="$HOME/Library/Application Support/rbee"
  [ -z "$RBEE_HOME" ] || data=$RBEE_HOME/data
  rm -rf "$data/models" "$data"/catalogue.db* || exit 1
fi
true
"""
"""sh: takes away what an installation puts at $1, and no other thing that lies there; with $2 the
models, which are where a hive keeps them wherever it is installed (rbee.paths)."""


@dataclass(frozen=True)
class Order:
    """What is to be installed."""

    version: str
    wheel: Path
    wheels: tuple[Path, ...] = ()
    """The wheelhouse: every dependency for that platform; fewer when online."""
    bundle: Path | None = None
    """A zip archive of further wheels, the small ones: one file crosses a slow line sooner."""
    extras: tuple[str, ...] = ()
    online: bool = False
    """The machine may use its own package index."""
    root: str | None = None
    python: str | None = None
    """A Python there, instead of the newest that was found."""
    uv: Path | None = None
    """The binary `uv` for that machine."""
    pip: Path | None = None
    """The wheel of pip, for a Python that makes environments without it."""
    python_archive: Path | None = None
    """A relocatable Python (.tar.gz with `python/bin/python3`), for a machine with neither."""


@dataclass(frozen=True)
class Upload:
    """Send a file."""

    title: str
    source: Path
    target: str
    mode: int = 0o644


@dataclass(frozen=True)
class Run:
    """Run a command. `expect`: a word its output must hold."""

    title: str
    argv: tuple[str, ...]
    limit: float = STEP_LIMIT
    expect: str | None = None


Step = Upload | Run


@dataclass(frozen=True)
class Plan:
    """All of it. `name`: the folder under versions/."""

    name: str
    root: str
    steps: tuple[Step, ...]
    switch: Run
    clean: Run
    """After a failure: what was half installed goes, what was sent stays."""
    ready: bool = False
    """That very version is installed: nothing but the switch remains."""


@dataclass(frozen=True)
class Extra:
    """An extra, whether it is installed, and why or why not."""

    name: str
    chosen: bool
    why: str


@dataclass(frozen=True)
class _How:
    """With what the environment is made."""

    make: tuple[str, ...]
    install: tuple[str, ...]
    before: tuple[Step, ...] = field(default=())


def plan(order: Order, facts: Facts, digests: dict[Path, str], sizes: dict[Path, int]) -> Plan:
    """The steps for one machine. `digests`, `sizes`: of every file of the order (SHA-256, bytes).

    Raises ValidationFailed, InsufficientDisk, and InstallFailed when there is no way to get a
    Python there.
    """
    _check(order)
    root = checked(order.root or facts.root)
    name = name_of(order, digests)
    place, wheels = f"{root}/versions/{name}", f"{root}/wheels/{name}"
    how = _how(order, facts, root, place, wheels)
    if name in facts.installed:
        return Plan(name, root, (_verify(order, place),), _switch(root, name), _nothing(), True)
    files = [order.wheel, *order.wheels]
    _need_disk(order, facts, sizes)
    what = f"rbee[{','.join(order.extras)}]" if order.extras else "rbee"
    steps: list[Step] = [
        _sh("prepare", 'umask 077; rm -rf "$1"; mkdir -p "$1" "$2"; touch "$1/.incomplete"', place,
            wheels),
        *(Upload(f"send {file.name}", file, f"{wheels}/{file.name}") for file in files),
        *_bundle(order, wheels),
        *how.before,
        Run("make the environment", how.make),
        *_unpack(order, place, wheels),
        Run("install", (*how.install, "--find-links", wheels, f"{what}=={order.version}"),
            limit=INSTALL_LIMIT),
        _verify(order, place),
        _sh("finish", 'rm -rf "$1"; rm -f "$2/.incomplete"', wheels, place),
    ]  # fmt: skip
    clean = _sh("clean up", 'if [ -e "$1/.incomplete" ]; then rm -rf "$1"; fi', place)
    return Plan(name, root, tuple(steps), _switch(root, name), clean)


def back(facts: Facts, name: str | None = None) -> Plan:
    """To another version that is there, the one before by default. Raises InstallFailed."""
    others = [version for version in facts.installed if version != facts.current]
    before = facts.previous if facts.previous in others else None
    chosen = name or before or (others[0] if len(others) == 1 else None)
    if chosen is None or chosen not in facts.installed:
        raise InstallFailed(
            f"no version {chosen or ''} to go back to; installed: "
            f"{', '.join(facts.installed) or 'none'}; in use: {facts.current or 'none'}",
            action="Name one of the installed versions.",
            step="choose",
        )
    rbee = f"{facts.root}/versions/{chosen}/bin/rbee"
    verify = Run("verify", (rbee, "--version"), expect=chosen.partition("-")[0])
    return Plan(chosen, facts.root, (verify,), _switch(facts.root, chosen), _nothing(), True)


def removal(facts: Facts, *, models: bool) -> Run:
    """Everything that was put there goes; models and the rest of its data only with `models`."""
    root = checked(facts.root)
    if root.count("/") < 2:
        raise ValidationFailed(
            f"{root} is no folder of rbee's", field="root", constraint="below a home"
        )
    return _sh("remove", _REMOVE, root, "models" if models else "")


def name_of(order: Order, digests: dict[Path, str]) -> str:
    """`<version>-<8 hex>`: another wheel or other extras are installed beside, never over."""
    seen = hashlib.sha256(digests[order.wheel].encode())
    for text in (*sorted(order.extras), order.python or ""):
        seen.update(f"\0{text}".encode())
    return f"{order.version}-{seen.hexdigest()[:8]}"


def python_for(order: Order, facts: Facts) -> Python | None:
    """The Python to use: the one named, else the newest that was found."""
    if order.python:
        same = (python for python in facts.pythons if python.path == order.python)
        return next(same, Python(path=order.python, version="3.11.0", venv=True))
    return facts.pythons[0] if facts.pythons else None


def _how(order: Order, facts: Facts, root: str, place: str, wheels: str) -> _How:
    pip = (f"{place}/bin/python", "-m", "pip", *_PIP, *_index(order))
    python = python_for(order, facts)
    if python is not None and python.venv:
        return _How((python.path, "-m", "venv", place), pip)
    if python is not None and python.bare and order.pip is not None:
        sent = f"{wheels}/{order.pip.name}"
        make = (python.path, "-m", "venv", "--without-pip", place)
        install = (f"{place}/bin/python", f"{sent}/pip", *_PIP, *_index(order))
        return _How(make, install, (Upload("send pip", order.pip, sent),))
    if order.python_archive is not None:
        archive = f"{root}/python/{order.python_archive.name}"
        folder = archive.removesuffix(".tar.gz").removesuffix(".tgz")
        before: tuple[Step, ...] = (
            Upload("send Python", order.python_archive, archive),
            _sh("unpack Python", 'mkdir -p "$2" && tar -xzf "$1" -C "$2" --strip-components 1 && '
                'rm -f "$1"', archive, folder),
        )  # fmt: skip
        return _How((f"{folder}/bin/python3", "-m", "venv", place), pip, before)
    uv, before = facts.uv, ()
    if not uv and order.uv is not None:
        uv = f"{root}/bin/uv"
        before = (Upload("send uv", order.uv, uv, 0o755),)
    if uv and (python is not None or order.online):
        cache = ("--cache-dir", f"{wheels}/.cache")
        offline = (*cache, "--no-config", "--offline") if not order.online else cache
        where = () if python is not None else ("env", f"UV_PYTHON_INSTALL_DIR={root}/python")
        which = python.path if python is not None else UV_PYTHON
        make = (
            *where,
            uv,
            "venv",
            "--quiet",
            "--allow-existing",
            *offline,
            "--python",
            which,
            place,
        )
        index = ("--only-binary", "llama-cpp-python") if _has_llama(order) else ()
        index = index if order.online else ("--no-index",)
        install = (uv, "pip", "install", "--quiet", *offline, *index)
        return _How(make, (*install, "--python", f"{place}/bin/python"), before)
    raise InstallFailed(
        f"{facts.name or facts.os} has no Python of at least 3.11 that can make an environment"
        + (f" ({python.path} lacks ensurepip)" if python else ""),
        action="Install python3.11 with venv there, or let it use the internet (--online), where "
        "uv fetches one.",
        step="choose Python",
    )


def _bundle(order: Order, wheels: str) -> list[Step]:
    if order.bundle is None:
        return []
    return [Upload("send the small wheels", order.bundle, f"{wheels}/{order.bundle.name}")]


def _unpack(order: Order, place: str, wheels: str) -> list[Step]:
    if order.bundle is None:
        return []
    unpack = (f"{place}/bin/python", "-I", "-m", "zipfile", "-e")
    return [Run("unpack", (*unpack, f"{wheels}/{order.bundle.name}", wheels))]


def _index(order: Order) -> tuple[str, ...]:
    """Offline, nothing that is configured there may lead elsewhere. Online, what was compiled and
    sent is better than newer sources."""
    return ("--prefer-binary",) if order.online else ("--isolated", "--no-index")


def _has_llama(order: Order) -> bool:
    return any(wheel.name.startswith("llama_cpp_python-") for wheel in order.wheels)


def _check(order: Order) -> None:
    good = _VERSION.fullmatch(order.version) and all(map(_EXTRA.fullmatch, order.extras))
    good = good and all(file.suffix == ".whl" for file in (order.wheel, *order.wheels))
    if not good or (order.python is not None and checked(order.python) != order.python):
        raise ValidationFailed(
            "an order needs a version, extras and wheels",
            field="order",
            constraint="version and extras of letters and digits, files ending in .whl",
        )


def _need_disk(order: Order, facts: Facts, sizes: dict[Path, int]) -> None:
    sent = sum(sizes[file] for file in (order.wheel, *order.wheels))
    sent += sizes[order.bundle] if order.bundle else 0
    need = sent * (1 + UNPACKED) + DISK_MARGIN
    need += sizes[order.pip] * 2 if order.pip else 0
    need += sizes[order.python_archive] * UNPACKED if order.python_archive else 0
    if facts.disk_free is not None and facts.disk_free < need:
        raise InsufficientDisk(
            f"the installation needs {need >> 20} MiB, {facts.disk_free >> 20} MiB are free there",
            action="Free some space there, or choose another place with --path.",
            required=need,
            available=facts.disk_free,
        )


def _sh(title: str, script: str, *args: str) -> Run:
    return Run(title, ("sh", "-c", script, "sh", *args))


def _verify(order: Order, place: str) -> Run:
    return Run("verify", (f"{place}/bin/rbee", "--version"), expect=order.version)


def _switch(root: str, name: str) -> Run:
    python = f"{root}/versions/{name}/bin/python"
    return Run("switch", (python, "-I", "-c", SWITCH, root, f"versions/{name}"))


def _nothing() -> Run:
    return Run("clean up", ("true",))
