"""`rbee hive doctor`: what works on a machine, what does not, and what to do about it.

Owns what the queen's word of a machine means; asks her only, and changes nothing there.
"""

from __future__ import annotations

from collections.abc import Iterator

from rbee import __version__
from rbee.commands.checks import FULL_DISK, SCARCE_DISK, Check, State
from rbee.commands.common import ask
from rbee.commands.doctor import report
from rbee.commands.hive_page import extra_action
from rbee.commands.hive_tables import (
    host_of,
    latency,
    state_of,
    trouble,
    version_of,
    via_of,
)
from rbee.commands.places import check_hive
from rbee.machine_words import times
from rbee.output import size
from rbee.protocol.hives import Absent, HiveInfo

WAITS = frozenset({"connecting", "working", "stopped"})
"""States that are as somebody wanted, or pass by themselves."""


def run(name: str, *, as_json: bool) -> int:
    """1 when something that is needed does not work there."""
    check_hive(name, flag="NAME")
    hive = ask(lambda queen: queen.hive(name))
    return report(list(examined(hive)), as_json=as_json, told={"hive": hive.name})


def examined(hive: HiveInfo, ours: str = __version__) -> Iterator[Check]:
    """All findings, in the order they are shown."""
    yield _state(hive, ours)
    yield from _link(hive)
    yield from _versions(hive, ours)
    if hive.online:
        yield from _devices(hive)
        yield from _backends(hive)
        yield from _disk(hive)


def _state(hive: HiveInfo, ours: str) -> Check:
    state = state_of(hive)
    wrong = trouble(hive, ours)
    if hive.online:
        message = f"online, {hive.workers} worker{'s'[: hive.workers != 1]}"
        return Check(name="state", state=State.OK, message=message)
    why = f": {wrong.reason}" if wrong else ""
    return Check(
        name="state",
        state=State.WARN if state in WAITS else State.FAIL,
        message=f"{state}{why}",
        action=wrong.action if wrong else "",
    )


def _link(hive: HiveInfo) -> Iterator[Check]:
    link = hive.link
    if link is None:
        text = f"{via_of(hive)}, {host_of(hive)}; no SSH between"
        yield Check(name="link", state=State.OK, message=text)
        return
    lost = f", lost {times(link.losses)} since the queen started" if link.losses else ""
    known = hive.record.fingerprint if hive.record else None
    key = f", host key {known}" if known else ""
    if link.up:
        fast = f"{latency(link.latency_ms)} there and back" if link.latency_ms else "not timed yet"
        text = f"{link.via} to {host_of(hive)}, {fast}{lost}{key}"
        yield Check(name="link", state=State.OK, message=text)
        return
    code = f" ({link.code})" if link.code else ""
    state = State.WARN if state_of(hive) in WAITS else State.FAIL
    message = f"{link.via} to {host_of(hive)} is down{code}{lost}{key}"
    yield Check(name="link", state=state, message=message)


def _versions(hive: HiveInfo, ours: str) -> Iterator[Check]:
    theirs = version_of(hive)
    if not theirs:
        return
    if theirs == ours:
        text = f"rbee {theirs} there and here"
        yield Check(name="version", state=State.OK, message=text)
        return
    wrong = trouble(hive, ours) if hive.online else None
    yield Check(
        name="version",
        state=State.FAIL,
        message=f"rbee {theirs} there, {ours} here",
        action=wrong.action if wrong else "",
    )


def _devices(hive: HiveInfo) -> Iterator[Check]:
    for device in hive.devices:
        busy = f", {device.utilisation:.0f} % busy" if device.utilisation is not None else ""
        hot = f", {device.temperature_c:.0f} °C" if device.temperature_c is not None else ""
        yield Check(
            name=device.name,
            state=State.OK,
            message=f"{device.label}: {size(device.memory_free)} of {size(device.memory_total)}"
            f" free{busy}{hot}",
        )
    for absent in hive.absent_devices:
        yield _absent(hive, absent, "none")


def _backends(hive: HiveInfo) -> Iterator[Check]:
    for backend in hive.backends:
        yield Check(
            name=backend.name,
            state=State.OK,
            message=f"formats {', '.join(backend.formats)}; devices {', '.join(backend.devices)};"
            f" up to {backend.max_slots} requests a worker",
        )
    for absent in hive.absent_backends:
        yield _absent(hive, absent, "not usable")
    if not any("gguf" in backend.formats for backend in hive.backends):
        install = "pip install 'rbee[llamacpp]'"
        yield Check(
            name="backends",
            state=State.FAIL,
            message="no backend there can run GGUF models",
            action=extra_action(hive, install),
        )


def _absent(hive: HiveInfo, absent: Absent, what: str) -> Check:
    """A GPU that is not there is no fault; one that could be used and is not has an action."""
    return Check(
        name=absent.name,
        state=State.WARN if absent.action else State.OK,
        message=f"{what}: {absent.reason}",
        action=extra_action(hive, absent.action),
    )


def _disk(hive: HiveInfo) -> Iterator[Check]:
    where = hive.models_dir or (hive.record.models_dir if hive.record else None)
    if hive.disk_free is None:
        return
    free = hive.disk_free
    state = State.FAIL if free < FULL_DISK else State.WARN if free < SCARCE_DISK else State.OK
    total = f" of {size(hive.disk_total)}" if hive.disk_total else ""
    yield Check(
        name="disk",
        state=state,
        message=f"{size(free)}{total} free at {where or 'its models folder'}",
        action=""
        if state is State.OK
        else f"rbee model gc --hive {hive.name}; models take gigabytes.",
    )
