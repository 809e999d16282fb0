"""`rbee hive add`: a machine is reached, its host key is shown and accepted, and it is remembered.

Owns the question about the key. The queen connects, compares and pins; nothing is accepted here
that nobody has said yes to.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from rbee import __version__
from rbee.client import QueenClient
from rbee.commands.bars import Bars
from rbee.commands.fetching import result_of
from rbee.commands.following import Manner
from rbee.commands.following import run as run_job
from rbee.commands.hive_tables import host_of, trouble, version_of
from rbee.commands.hives import checked, labels_of
from rbee.commands.places import check_hive
from rbee.commands.questions import confirmed, may_ask
from rbee.errors import (
    BadGateway,
    ConnectionTimeout,
    HostKeyUnknown,
    InvalidRequest,
    RbeeError,
)
from rbee.machine_words import key_check
from rbee.narration import printable
from rbee.output import print_json
from rbee.protocol.base import convert
from rbee.protocol.hives import HiveInfo
from rbee.protocol.operations import HiveAdd

MOST_KEYS = 9
"""One for each machine on the way: eight jumps and itself."""
_WHERE = re.compile(r"[A-Za-z0-9._@:\[\]-]{1,255}")


def add(
    name: str, target: str | None, given: Mapping[str, Any], labels: Sequence[str], manner: Manner
) -> int:
    """`given`: further fields of HiveAdd. Without a target the name is one, as for ssh."""
    check_name(name, target)
    wanted = asked_for(name, target, given, labels)
    may = wanted.accept is None and not manner.as_json and may_ask()
    shown: set[str] = set()
    while True:
        done = _try(wanted, manner, named=target is not None)
        if isinstance(done, int):
            return done
        key = str(done.details.get("fingerprint"))
        if not may or key in shown or len(shown) == MOST_KEYS:
            raise unaccepted(done, wanted)
        shown.add(key)
        sys.stderr.write("\n".join(key_lines(done)) + "\n")
        if not confirmed("Trust this key?"):
            sys.stderr.write("rbee: nothing was added\n")
            return 1
        wanted = msgspec.structs.replace(wanted, accept=key)


def check_name(name: str, target: str | None) -> None:
    """Raises InvalidRequest, which says how it goes where the target stands in the name's place."""
    try:
        check_hive(name, flag="NAME")
    except InvalidRequest as exc:
        where = name if target is None and _WHERE.fullmatch(name) else "USER@HOST"
        raise InvalidRequest(
            exc.message,
            action="Say first what to call it (a-z, 0-9 and -), then where it is: "
            f"rbee hive add NAME {where}",
        ) from exc


def asked_for(
    name: str, target: str | None, given: Mapping[str, Any], labels: Sequence[str]
) -> HiveAdd:
    """The operation. Raises InvalidRequest."""
    fields: dict[str, Any] = {
        "operation": "hive_add",
        "name": name,
        "target": name if target is None else target,
        "labels": labels_of(labels),
        **{key: value for key, value in given.items() if value is not None},
    }
    wanted = checked(fields, HiveAdd)
    if wanted.accept is not None and not wanted.accept.startswith("SHA256:"):
        raise InvalidRequest(
            f"--fingerprint: {printable(wanted.accept)[:80]!r} does not begin with SHA256:",
            action="Give it as `ssh-keygen -lf` shows it there: SHA256:…",
        )
    return wanted


def key_lines(error: HostKeyUnknown) -> list[str]:
    """What was shown, and how to compare it there."""
    kind = str(error.details.get("key_type", ""))
    pairs = (
        ("host", error.details.get("host", "")),
        ("key type", kind),
        ("fingerprint", error.details.get("fingerprint", "")),
        ("compare there", key_check(kind)),
    )
    told = [f"  {label:<14} {printable(str(value))}" for label, value in pairs]
    return ["This machine's host key was never seen here.", *told]


def unaccepted(error: HostKeyUnknown, wanted: HiveAdd) -> HostKeyUnknown:
    """The same error with the command that accepts the key."""
    key = str(error.details.get("fingerprint", ""))
    message = error.message
    if wanted.accept is not None and wanted.accept != key:
        message = f"{message}; you accept {wanted.accept}"
    action = (
        f"Compare it on that machine, then: {command(wanted, key)}"
        " (or --accept-new: whatever key it shows)."
    )
    told = {k: v for k, v in error.details.items() if k != "suggested_action"}
    return HostKeyUnknown(message, action=action, **told)


def command(wanted: HiveAdd, fingerprint: str) -> str:
    """The command that adds this machine and accepts this key."""
    words = ["rbee", "hive", "add", wanted.name, wanted.target]
    for flag, value in (
        ("--path", wanted.path),
        ("--python", wanted.python),
        ("--models-dir", wanted.models_dir),
        ("--forward", None if wanted.forward == "auto" else wanted.forward),
    ):
        words += [flag, value] if value is not None else []
    for label, text in wanted.labels.items():
        words += ["--label", f"{label}={text}"]
    return printable(shlex.join([*words, "--fingerprint", fingerprint]))


def next_step(hive: HiveInfo, ours: str = __version__) -> tuple[str, str]:
    """What is there already, and the command that comes next."""
    theirs = version_of(hive)
    if not theirs:
        return "rbee is not installed there yet", f"rbee hive install {hive.name}"
    if theirs != ours:
        return f"rbee {theirs} is there, {ours} here", f"rbee hive upgrade {hive.name}"
    wrong = trouble(hive, ours)
    if wrong is None:
        return (
            f"rbee {theirs} is there and runs",
            f'rbee infer --hive {hive.name} --model MODEL "…"',
        )
    return f"rbee {theirs} is there", f"rbee hive start {hive.name}"


def _try(wanted: HiveAdd, manner: Manner, *, named: bool) -> int | HostKeyUnknown:
    """The exit code, or the key that must be accepted first."""
    unknown: list[HostKeyUnknown] = []

    async def work(queen: QueenClient, narrator: Bars) -> None:
        try:
            result = await result_of(wanted, queen, narrator)
        except HostKeyUnknown as exc:
            unknown.append(exc)
            return
        except (BadGateway, ConnectionTimeout) as exc:
            if not named:
                await _say_where(exc, wanted.name, queen)
            raise
        narrator.clear()
        if manner.as_json:
            print_json(result)
            return
        hive = convert(result["hive"], HiveInfo)
        there, then = next_step(hive)
        sys.stdout.write(printable(f"{hive.name} is added: {host_of(hive)}; {there}") + "\n")
        sys.stdout.flush()
        narrator.say(f"next: {then}")

    code = run_job(manner, work)
    return unknown[0] if unknown and not code else code


async def _say_where(error: RbeeError, name: str, queen: QueenClient) -> None:
    """Of a machine that was looked for by the name it is to get, and is no Host of the config."""
    hosts: list[str] = []
    with contextlib.suppress(RbeeError):  # the error there is counts
        around = await queen.nearby(lan=False)
        hosts = [one.name for one in around.machines if one.source == "ssh config"]
    if name not in hosts:
        known = f" ~/.ssh/config knows: {', '.join(hosts[:20])}." if hosts else ""
        error.details["suggested_action"] = (
            f"Say where it is: rbee hive add {name} USER@HOST.{known}"
        )
