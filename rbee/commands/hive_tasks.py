"""`rbee hive install|upgrade|uninstall|start|stop|restart|refresh|wake|remove|check`: deeds there.

Each is a job of the queen: told while it goes on, cancelled by Ctrl+C. Owns the question before
something is taken away, and what is said when it is done.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from rbee.client import QueenClient
from rbee.commands.bars import Bars
from rbee.commands.common import ask
from rbee.commands.fetching import result_of
from rbee.commands.following import Manner
from rbee.commands.following import run as run_job
from rbee.commands.hive_tables import checked as steps
from rbee.commands.hive_tables import devices_of, latency, state_of, trouble, version_of, via_of
from rbee.commands.hives import ADDS, checked
from rbee.commands.places import check_hive
from rbee.commands.questions import confirmed, need_yes
from rbee.commands.tables import room
from rbee.errors import InvalidRequest, RbeeError
from rbee.narration import printable
from rbee.output import duration, print_error, print_json
from rbee.protocol.base import convert
from rbee.protocol.hives import HiveInfo
from rbee.protocol.machines import HiveChecked
from rbee.protocol.operations import (
    HiveCheck,
    HiveInstall,
    HiveRefresh,
    HiveRemove,
    HiveRestart,
    HiveStart,
    HiveStop,
    HiveUninstall,
    HiveUpgrade,
    HiveWake,
    Operation,
)

Result = dict[str, Any]
LONGEST = 31_536_000
"""Seconds that a hive may be told to stay without a queen: a year."""
SIMPLE = {
    "stop": HiveStop,
    "restart": HiveRestart,
    "refresh": HiveRefresh,
    "wake": HiveWake,
}


def install(
    name: str,
    *,
    online: bool,
    extras: Sequence[str],
    path: str | None,
    python: str | None,
    manner: Manner,
) -> int:
    """`rbee hive install NAME`: this version of rbee, with what suits the machine."""
    operation = _operation(
        HiveInstall,
        {"operation": "hive_install", "hive": name, "online": online,
         "extras": list(extras) or None, "path": path, "python": python},
    )  # fmt: skip
    return _run(operation, manner, _tell_installed)


def upgrade(
    name: str | None, *, everything: bool, online: bool, extras: Sequence[str], manner: Manner
) -> int:
    """`rbee hive upgrade NAME | --all`: one machine after the other; the first failure's code."""
    if (name is None) is not everything:
        raise InvalidRequest("name one machine, or give --all", action="rbee hive upgrade --all")
    fields = {"operation": "hive_upgrade", "online": online, "extras": list(extras) or None}
    if name is not None:
        operation = _operation(HiveUpgrade, {**fields, "hive": name})
        return _run(operation, manner, _tell_installed)
    done: list[Result] = []
    failed: list[tuple[str, RbeeError]] = []

    async def work(queen: QueenClient, narrator: Bars) -> None:
        added = [hive for hive in await queen.hives() if hive.record is not None]
        for hive in added:
            if not version_of(hive):
                narrator.say(f"{hive.name} has no rbee: rbee hive install {hive.name}")
                continue
            operation = _operation(HiveUpgrade, {**fields, "hive": hive.name})
            narrator.say(f"{hive.name}: rbee {version_of(hive)} now")
            try:
                result = await result_of(operation, queen, narrator)
            except RbeeError as exc:
                narrator.say(f"{hive.name} was not upgraded: {exc.code}")
                failed.append((hive.name, exc))
                continue
            narrator.make_room()
            done.append(result)
            if not manner.as_json:
                _write(installed(result))
        if manner.as_json:
            errors = [{"hive": hive, **error.body()} for hive, error in failed]
            print_json({"upgrades": done, "failed": errors})
            return
        narrator.clear()
        for _, error in failed:
            print_error(error)
        if not added:
            narrator.say(ADDS)

    return run_job(manner, work) or (failed[0][1].exit_code if failed else 0)


def uninstall(name: str, *, models: bool, yes: bool, manner: Manner) -> int:
    """`rbee hive uninstall NAME`: asks first; its models stay unless they are named."""
    too = " and its models" if models else ""
    if not _agreed(name, f"Take rbee{too} off {name}?", what=f"uninstalling {name}", yes=yes):
        return 1

    def tell(_result: Result, narrator: Bars) -> None:
        _write(f"rbee is off {name}; its models {'too' if models else 'stay'}")
        narrator.say(f"it stays added; rbee hive remove {name} forgets it")

    return _run(HiveUninstall(hive=name, models=models), manner, tell)


def remove(name: str, *, yes: bool, manner: Manner) -> int:
    """`rbee hive remove NAME`: asks first; what is installed there stays."""
    question = f"Stop the hive of {name} and forget that machine?"
    if not _agreed(name, question, what=f"removing {name}", yes=yes):
        return 1

    def tell(result: Result, narrator: Bars) -> None:
        _write(f"{name} is removed")
        if result.get("message"):
            narrator.say(str(result["message"]))

    return _run(HiveRemove(hive=name), manner, tell)


def start(name: str, *, detached: float | None, manner: Manner) -> int:
    """`rbee hive start NAME`; `detached`: seconds that it stays without a queen."""
    if detached is not None and not 1 <= detached <= LONGEST:
        raise InvalidRequest(
            f"--detached: {detached:g} is not 1 to {LONGEST}",
            action="Give it in seconds: --detached 3600 is an hour.",
        )
    operation = _operation(
        HiveStart, {"operation": "hive_start", "hive": name, "detached_s": detached}
    )
    return _run(operation, manner, _tell_state)


def simple(verb: str, name: str, manner: Manner) -> int:
    """`rbee hive stop|restart|refresh|wake NAME`"""
    check_hive(name, flag="NAME")
    return _run(SIMPLE[verb](hive=name), manner, _tell_state)


def check(name: str, manner: Manner) -> int:
    """`rbee hive check NAME`: a step of the way there and back that does not work is the error."""
    check_hive(name, flag="NAME")

    def tell(result: Result, _narrator: Bars) -> None:
        _write(*steps(convert(result, HiveChecked), width=room()))

    return _run(HiveCheck(hive=name), manner, tell)


def installed(result: Result) -> str:
    """What is on a machine now."""
    extras = [str(one) for one in result.get("extras") or ()]
    also = f", with {' and '.join(extras)}" if extras else ""
    before = result.get("before")
    after = f" after {before}" if before not in (None, result["version"]) else ""
    already = " already" if result.get("already") else ""
    return f"rbee {result['version']} is on {_hive(result).name}{already}{after}{also}"


def now(hive: HiveInfo) -> str:
    """How a machine is, in one line."""
    if not hive.online:
        return f"{hive.name} is {state_of(hive)}"
    fast = f" {latency(hive.link.latency_ms)}" if hive.link and hive.link.latency_ms else ""
    return (
        f"{hive.name} is online: rbee {hive.version}, {devices_of(hive)}, by {via_of(hive)}{fast}"
    )


def _hive(result: Result) -> HiveInfo:
    return convert(result["hive"], HiveInfo)


def _operation(kind: Any, fields: dict[str, Any]) -> Any:
    check_hive(fields["hive"], flag="NAME")
    return checked(fields, kind)


def _agreed(name: str, question: str, *, what: str, yes: bool) -> bool:
    """Whether it may be done. Raises InvalidRequest, HiveNotFound."""
    check_hive(name, flag="NAME")
    if yes:
        return True
    need_yes(what)
    ask(lambda queen: queen.hive(name))
    if confirmed(question):
        return True
    sys.stderr.write("rbee: nothing was changed\n")
    return False


def _run(operation: Operation, manner: Manner, tell: Callable[[Result, Bars], None]) -> int:
    async def work(queen: QueenClient, narrator: Bars) -> None:
        result = await result_of(operation, queen, narrator)
        narrator.make_room()
        if manner.as_json:
            print_json(result)
        else:
            tell(result, narrator)

    return run_job(manner, work)


def _tell_installed(result: Result, narrator: Bars) -> None:
    _write(installed(result))
    hive = _hive(result)
    if not _tell_trouble(hive, narrator):
        narrator.say(f'use it: rbee infer --hive {hive.name} --model MODEL "…"')


def _tell_state(result: Result, narrator: Bars) -> None:
    hive = _hive(result)
    already = " already" if result.get("already") else ""
    seconds = result.get("seconds")
    took = f", after {duration(float(seconds))}" if seconds is not None else ""
    _write(f"{now(hive)}{already}{took}")
    if state_of(hive) != "stopped":
        _tell_trouble(hive, narrator)


def _tell_trouble(hive: HiveInfo, narrator: Bars) -> bool:
    wrong = trouble(hive)
    if wrong is not None:
        narrator.say(f"{hive.name}: {wrong.reason}")
        if wrong.action:
            narrator.say(f"→ {wrong.action}")
    return wrong is not None


def _write(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(printable(line) + "\n")
    sys.stdout.flush()
