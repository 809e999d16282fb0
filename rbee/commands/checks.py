"""What `rbee doctor` looks at: one function for each subject, each with one or more findings.

Owns what is asked and what the answer means; never changes, starts or repairs anything. Native
libraries are loaded in processes of their own, whose death is a finding.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import anyio
import msgspec

from rbee import __version__, registry
from rbee.backend_api import BackendInfo, Support
from rbee.errors import RbeeError
from rbee.hardware.found import Found, accelerators
from rbee.models import packages
from rbee.output import size
from rbee.paths import Paths
from rbee.settings import Loaded, Settings

OLDEST_PYTHON = (3, 11)
REPORT_SECONDS = 30.0
SCARCE_DISK, FULL_DISK = 5 << 30, 100 << 20
SCARCE_MEMORY = 1 << 30
SCHEDULED = frozenset({"cpu", "cuda"})
"""Kinds of devices that hives of this version measure and give jobs to."""


class State(StrEnum):
    """`warn` is what could be better, `fail` what does not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One finding. `action` is what to do about it; empty: nothing."""

    name: str
    state: State
    message: str
    action: str = ""


def python() -> Iterator[Check]:
    """The interpreter and rbee itself."""
    here = f"Python {platform.python_version()} at {sys.executable}, rbee {__version__}"
    good = sys.version_info[:2] >= OLDEST_PYTHON
    yield Check(
        name="python",
        state=State.OK if good else State.FAIL,
        message=here,
        action="" if good else "Install rbee with Python 3.11 or newer.",
    )


def folders(paths: Paths) -> Iterator[Check]:
    """Whether rbee can write where it must, and whether there is room."""
    for name in ("config", "data", "state", "cache", "runtime"):
        folder: Path = getattr(paths, name)
        there = next(p for p in (folder, *folder.parents) if p.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            yield Check(
                name="folders",
                state=State.FAIL,
                message=f"{folder} ({name}) cannot be written: {there} does not allow it",
                action="Give this user the right to write there, or choose a folder with"
                " RBEE_HOME.",
            )
            return
    there = next(p for p in (paths.data, *paths.data.parents) if p.exists())
    free = shutil.disk_usage(there).free
    state = State.FAIL if free < FULL_DISK else State.WARN if free < SCARCE_DISK else State.OK
    yield Check(
        name="folders",
        state=state,
        message=f"all can be written; {size(free)} of disk is free at {paths.data}",
        action="" if state is State.OK else "Make room there: models take gigabytes.",
    )


def settings(loaded: Loaded | RbeeError, paths: Paths) -> Iterator[Check]:
    """The settings as they were read, or what is wrong with them."""
    if isinstance(loaded, RbeeError):
        yield Check(name="settings", state=State.FAIL, message=loaded.message, action=loaded.action)
        return
    if (wrong := loaded.problem) is not None:
        text = f"ui.toml is left out: {wrong.message}"
        yield Check(name="settings", state=State.WARN, message=text, action=wrong.action)
        return
    files = (paths.machine_config, paths.config_file, paths.ui_file)
    there = [str(file) for file in files if file is not None and file.exists()]
    yield Check(
        name="settings",
        state=State.OK,
        message=f"valid: {', '.join(there)}" if there else "all defaults; there is no file",
    )


def queen(loaded: Settings, paths: Paths) -> Iterator[Check]:
    """The running queen, or whether one could start; and who can reach her."""
    from rbee.daemons import launch  # 100 ms
    from rbee.daemons.queen.doors import opened

    host, port = loaded.queen.host, loaded.queen.port
    try:
        found = anyio.run(launch.find, loaded, paths)
    except RbeeError as exc:
        yield Check(name="queen", state=State.FAIL, message=exc.message, action=exc.action)
        return
    if found is not None:
        same = found.version == __version__
        yield Check(
            name="queen",
            state=State.OK if same else State.FAIL,
            message=f"runs at {found.url} (pid {found.pid}, rbee {found.version})",
            action="" if same else f"rbee queen stop; commands of {__version__} do not use her.",
        )
    else:
        try:
            with opened(loaded, paths, now=time.time()):
                pass
        except RbeeError as exc:
            yield Check(name="queen", state=State.FAIL, message=exc.message, action=exc.action)
            return
        where = f"{host}:{port} is free" if port else f"{host}, any port"
        yield Check(name="queen", state=State.OK, message=f"none runs, and one can: {where}")
    if not loaded.queen.url:
        yield from access(loaded, paths)


def access(loaded: Settings, paths: Paths) -> Iterator[Check]:
    """Who can reach the queen, by these settings, and what they need for it."""
    from rbee.access.keys import Keys
    from rbee.daemons.base import is_loopback
    from rbee.daemons.queen.doors import address_of, posture, tls_of

    wanted = loaded.queen
    try:
        keys, tls = Keys(paths.keys_file).infos(time.time()), tls_of(wanted, paths)
    except RbeeError as exc:
        yield Check(name="access", state=State.FAIL, message=exc.message, action=exc.action)
        return
    usable = [key for key in keys if not key.expired]
    if is_loopback(wanted.host):
        needs = "a key" if wanted.require_key else "no key"
        text = (
            f"the queen listens on {wanted.host} only; programs of this machine ask models with"
            f" {needs}, only her owner's commands and admins' keys do more"
        )
        yield Check(name="access", state=State.OK, message=text)
    for what in posture(wanted, tls, address_of(wanted, tls), len(usable)):
        open_wide = tls is None and "TLS" in what
        yield Check(
            name="access",
            state=State.WARN if open_wide else State.OK,
            message=what,
            action="rbee cert create, then start the queen anew." if open_wide else "",
        )
    admins = sum("admin" in key.scopes for key in usable)
    over = len(keys) - len(usable)
    text = f"keys that can be used: {len(usable)}, of which for an admin: {admins}; expired: {over}"
    yield Check(name="access", state=State.OK, message=text)
    for file in (paths.owner_file, paths.keys_file, paths.tls_dir / "server.key"):
        with contextlib.suppress(FileNotFoundError):
            if (mode := file.stat().st_mode & 0o077) != 0:
                yield Check(
                    name="access",
                    state=State.FAIL,
                    message=f"{file} can be read by others of this machine (mode {mode:03o})",
                    action=f"chmod 600 {file}; then make anew what it holds.",
                )


def machine() -> Iterator[Check]:
    """Cores and memory, as this process may use them."""
    from rbee.hardware.cpu import Cpu

    device = Cpu().read()
    scarce = device.memory_free < SCARCE_MEMORY
    yield Check(
        name="machine",
        state=State.WARN if scarce else State.OK,
        message=f"{platform.system()} {platform.machine()}, {device.label}"
        f" ({os.cpu_count()} logical), {size(device.memory_free)} of"
        f" {size(device.memory_total)} memory free",
        action="Close what takes memory; a model needs 1 GB and more." if scarce else "",
    )


def demo() -> Iterator[Check]:
    """The small model that needs no download."""
    for name in packages.PACKAGED:
        try:
            file = packages.packaged(name)
        except RbeeError as exc:
            yield Check(name="model", state=State.WARN, message=exc.message, action=exc.action)
            continue
        yield Check(
            name="model",
            state=State.OK if file is not None else State.WARN,
            message=f"{name} is here: {file.path}" if file is not None else f"{name} is not here",
            action="" if file is not None else packages.INSTALL[name],
        )


def backends(seen: list[Found] | None = None) -> Iterator[Check]:
    """Each backend by its own word, then by loading it; and GPUs nobody is built for."""
    seen = accelerators() if seen is None else seen
    usable = False
    for info, support in registry.survey():
        if not support.available:
            text = f"not usable: {support.reason}"
            yield Check(name=info.name, state=State.WARN, message=text, action=support.action)
            continue
        checks = list(_backend(info, support, seen))
        usable = usable or ("gguf" in info.formats and checks[0].state is State.OK)
        yield from checks
    if not usable:
        yield Check(
            name="backends",
            state=State.FAIL,
            message="no backend can run GGUF models",
            action="pip install 'rbee[llamacpp]', or do what is said above.",
        )


def _backend(info: BackendInfo, support: Support, seen: list[Found]) -> Iterator[Check]:
    from rbee.daemons.process import python_module

    known = f"formats {', '.join(info.formats)}; up to {info.max_slots} requests a worker"
    if not info.report:
        text = f"devices {', '.join(support.devices)}; {known}"
        yield Check(name=info.name, state=State.OK, message=text)
        return
    told = run_report(python_module(info.report))
    if isinstance(told, str):
        yield Check(
            name=info.name,
            state=State.FAIL,
            message=f"loading it failed: {told}",
            action=support.action or "Install it again; `rbee doctor` shows when it loads.",
        )
        return
    kinds, devices = list(told.get("kinds", [])), list(told.get("devices", []))
    features = f" ({' '.join(told['features'])})" if told.get("features") else ""
    yield Check(
        name=info.name,
        state=State.OK,
        message=f"version {told.get('version')}, built for {', '.join(kinds)}{features}; {known}",
    )
    for device in devices:
        yield Check(
            name=info.name,
            state=State.OK,
            message=f"{device['name']} {device['label']}: {size(device['memory_free'])} of"
            f" {size(device['memory_total'])} free",
        )
    have = {str(device["name"]).partition(":")[0] for device in devices}
    yield from _unused(info.name, kinds, have, dict(told.get("missing", {})), seen)


def _unused(
    name: str, kinds: list[str], have: set[str], missing: dict[str, str], seen: list[Found]
) -> Iterator[Check]:
    """Accelerators that are here and of no use to the backend as it is built."""
    for kind in dict.fromkeys(found.kind for found in seen):
        labels = ", ".join(found.label for found in seen if found.kind == kind)
        if kind in have:
            continue
        if kind in kinds:
            text = f"{labels} is here and {name} is built for {kind}, but it finds no such device"
            action = "See whether the driver works and whether this user may use the device."
            yield Check(name=kind, state=State.WARN, message=text, action=action)
        elif kind in SCHEDULED:
            text = f"{labels} is here, but {name} is not built for {kind}"
            yield Check(name=kind, state=State.WARN, message=text, action=missing.get(kind, ""))
        elif not have:
            text = (
                f"{labels} is here; {name} is not built for {kind}, and hives of this version give"
                " jobs to cpu and cuda devices only"
            )
            yield Check(name=kind, state=State.OK, message=text, action=missing.get(kind, ""))


def run_report(command: Sequence[str], *, limit: float = REPORT_SECONDS) -> dict[str, Any] | str:
    """What a command prints as JSON, or in words how it ended instead."""
    from rbee.daemons.process import clean_environment

    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=limit,
            check=False,
            stdin=subprocess.DEVNULL,
            env=clean_environment({"GGML_NO_BACKTRACE": "1"}),
        )
    except subprocess.TimeoutExpired:
        return f"it did not answer within {limit:g} s"
    except OSError as exc:
        return f"it cannot be started: {exc}"
    if done.returncode == 0:
        with contextlib.suppress(msgspec.MsgspecError):
            return msgspec.json.decode(done.stdout, type=dict[str, Any])
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
    last = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line]
    return f"it ended with {how}" + (f": {' / '.join(last[-3:])}" if last else "")
