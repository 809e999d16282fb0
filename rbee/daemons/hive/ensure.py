"""Having a hive stand by itself: one of a name, found or started, told of, ended.

Owns `rbee-hive --ensure`, `--status` and `--stop`, which a queen runs on the machine over SSH. They
end at once and hold nothing open; the hive that they start has a session, a log and a token of its
own. Calls block. What a hive does is not known here.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import secrets
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rbee.daemons.detached import DetachedProcess, send
from rbee.daemons.hive import standing
from rbee.daemons.hive.asking import ask
from rbee.daemons.hive.standing import Entry
from rbee.daemons.process import (
    NETWORK,
    clean_environment,
    open_log,
    python_module,
    sweep,
    tail,
)
from rbee.daemons.state import locked
from rbee.errors import (
    BadGateway,
    HiveExists,
    HiveOffline,
    RbeeError,
    TimedOut,
    Unavailable,
    WorkerStuck,
)
from rbee.protocol.base import decode, encode
from rbee.protocol.hives import HiveUp, LeaseFrame, LeaseInfo

if TYPE_CHECKING:
    from rbee.paths import Paths

MODULE = "rbee.daemons.hive.main"
START_LIMIT = 30.0
ANSWER_LIMIT = 8.0
"""Seconds within which a hive that lives answers, or counts as hung."""
SETTLE_LIMIT = 10.0
"""Seconds for a hive to say where it is after it began, or to be gone after it left."""
TURN_LIMIT = 60.0
ASK_LIMIT = 2.0
STOP_LIMIT, TERM_LIMIT, KILL_LIMIT = 15.0, 5.0, 5.0
POLL = 0.02
LOG_LIMIT = 10 << 20
"""A log larger than this is set aside as `.1` at the hive's next start."""
LAST_LINES = 10
LEAN = {"MALLOC_ARENA_MAX": "1"}
"""A hive computes nothing: an arena for each of its threads would be 4 MB more for no speed."""
_ERROR = re.compile(r"error (?P<code>[A-Z_]+): (?P<message>.*)\n  → (?P<action>.*)")


def ensure(
    paths: Paths,
    name: str,
    *,
    models_dir: str | None = None,
    alone: float | None = None,
    replace: bool = False,
) -> HiveUp:
    """The hive of that name, which answers now; two at once get the same one.

    `alone`: seconds it is to stay without a queen. `replace`: end what runs, start anew. Raises
    HiveOffline for one that lives and does not answer, HiveExists where the name belongs to a
    hive that was started otherwise, TimedOut, and whatever keeps it from starting.
    """
    paths.ensure()
    with _turn(paths, name):
        entry = _settled(paths, name)
        if entry is not None and replace:
            _end(paths, entry)
            entry = None
        if entry is None:
            return _start(paths, name, models_dir=models_dir, alone=alone)
        return _told(entry, _answer(paths, name, alone=alone))


def status(paths: Paths, name: str) -> HiveUp:
    """The hive of that name. Raises HiveOffline when there is none or it does not answer."""
    entry = _living(paths, name)
    if entry is None:
        raise HiveOffline(
            f"no hive named {name} stands by itself in {paths.state}",
            action=f"Start it: rbee hive start {name}.",
        )
    return _told(entry, _answer(paths, name))


def stop(paths: Paths, name: str) -> list[str]:
    """End the hive of that name with its workers, however stuck; what was done, line by line.

    Raises HiveExists where the name belongs to a hive that was started otherwise, WorkerStuck.
    """
    if not paths.state.is_dir():
        return [f"no hive named {name} runs"]
    with _turn(paths, name):
        entry = _settled(paths, name)
        if entry is None:
            standing.remove(paths, name)
            return [f"no hive named {name} runs", *_sweep(paths, name)]
        return _end(paths, entry)


def _settled(paths: Paths, name: str) -> Entry | None:
    """The one that lives, after whatever was under way; None when the name is free."""
    deadline = time.monotonic() + SETTLE_LIMIT
    while True:
        entry = _living(paths, name)
        if entry is not None:
            return entry
        with locked(standing.lock_of(paths, name)) as free:
            if free:
                return None
        if time.monotonic() > deadline:
            raise HiveExists(
                f"a hive named {name} already runs in {paths.state}, and was not started by a "
                "queen elsewhere",
                action="It is the hive of a queen on that machine: add the machine under another "
                "name, or stop that queen first.",
            )
        time.sleep(POLL)


def _living(paths: Paths, name: str) -> Entry | None:
    entry = standing.read(paths, name)
    return entry if entry is not None and entry.is_alive() else None


def _told(entry: Entry, lease: LeaseInfo) -> HiveUp:
    return msgspec.structs.replace(entry.shown(), alone=lease.alone)


def _answer(paths: Paths, name: str, *, alone: float | None = None) -> LeaseInfo:
    deadline = time.monotonic() + ANSWER_LIMIT
    while True:
        entry = _living(paths, name)
        if entry is None:
            raise HiveOffline(
                f"hive {name} has just stopped", action=f"Start it anew: rbee hive start {name}."
            )
        left = deadline - time.monotonic()
        try:
            return _lease(entry, alone=alone, limit=max(0.1, min(left, ANSWER_LIMIT / 2)))
        except (OSError, http.client.HTTPException, RbeeError) as exc:
            if left <= 0:
                raise HiveOffline(
                    f"hive {name} (pid {entry.pid}) lives, but does not answer within "
                    f"{ANSWER_LIMIT:g} s ({type(exc).__name__})",
                    action=f"Start it anew, with its workers: rbee hive restart {name}.",
                    pid=entry.pid,
                ) from exc
        time.sleep(POLL)


def _lease(entry: Entry, *, alone: float | None, limit: float) -> LeaseInfo:
    body = None if alone is None else encode(LeaseFrame(alone=alone))
    status, data = ask(f"{entry.url}/v1/lease", token=entry.token, body=body, limit=limit)
    if status != 200:
        raise BadGateway(f"hive {entry.name} answered {status}")
    return decode(data, LeaseInfo)


def _start(paths: Paths, name: str, *, models_dir: str | None, alone: float | None) -> HiveUp:
    standing.remove(paths, name)
    log_path = standing.log_of(paths, name)
    begins = _set_aside(log_path)
    mark = secrets.token_hex(8)
    args = ["--standing", mark, "--name", name]
    args += [] if models_dir is None else ["--models-dir", models_dir]
    args += [] if alone is None else ["--alone", str(alone)]
    ours = {k: v for k, v in os.environ.items() if k.startswith("RBEE_") and "TOKEN" not in k}
    ways = {k: v for k, v in os.environ.items() if k.upper() in NETWORK}
    with open_log(log_path) as out:
        process = DetachedProcess(
            python_module(MODULE, *args),
            env=clean_environment(ours | ways | LEAN),
            output=out,
            lifeline=False,
        )
    deadline = time.monotonic() + START_LIMIT
    while (code := process.code) is None:
        entry = standing.read(paths, name)
        if entry is not None and entry.mark == mark:
            with contextlib.suppress(OSError, http.client.HTTPException, RbeeError):
                lease = _lease(entry, alone=None, limit=ASK_LIMIT)
                process.forget()
                return _told(entry, lease)
        if time.monotonic() > deadline:
            process.kill()
            _until(lambda: process.ended, KILL_LIMIT)
            raise TimedOut(
                f"hive {name} did not answer within {START_LIMIT:g} s of its start",
                action=f"Read its log: {log_path}.",
                tail=_last_words(log_path, begins),
            )
        time.sleep(POLL)
    raise _refused(name, code, log_path, begins)


def _refused(name: str, code: int, log_path: Path, begins: int) -> RbeeError:
    last = _last_words(log_path, begins)
    told = _ERROR.fullmatch("\n".join(last[-2:]))
    if told is not None:
        details = {"suggested_action": told["action"], "tail": last[:-2]}
        body = {"code": told["code"], "message": told["message"], "details": details}
        return RbeeError.from_body({"error": body})
    how = f"signal {-code}" if code < 0 else f"code {code}"
    return Unavailable(
        f"hive {name} ended with {how} while it was starting",
        action=f"Read its log: {log_path}.",
        tail=last,
    )


def _last_words(log_path: Path, begins: int) -> list[str]:
    """What was written since the log was `begins` bytes long, the last lines."""
    with contextlib.suppress(OSError):
        fresh = log_path.stat().st_size - begins
        if fresh > 0:
            return tail(log_path, LAST_LINES, most=fresh)
    return []


def _set_aside(log_path: Path) -> int:
    """How long the log is, after it was set aside for being too long."""
    try:
        size = log_path.stat().st_size
    except FileNotFoundError:
        return 0
    if size <= LOG_LIMIT:
        return size
    log_path.replace(log_path.with_suffix(".log.1"))
    return 0


def _end(paths: Paths, entry: Entry) -> list[str]:
    who = f"hive {entry.name} (pid {entry.pid})"
    out: list[str] = []
    if _asked_to_stop(entry) and _gone(entry, STOP_LIMIT):
        out.append(f"{who} stopped")
    else:
        out.append(f"{who} did not stop when it was asked")
        send(entry.pid, signal.SIGTERM)
        send(entry.pid, signal.SIGCONT)
        if _gone(entry, TERM_LIMIT):
            out.append(f"{who} ended with SIGTERM")
        else:
            send(entry.pid, signal.SIGKILL)
            if not _gone(entry, KILL_LIMIT):
                raise WorkerStuck(f"{who} did not end, not even when it was killed")
            out.append(f"{who} was killed")
    standing.remove(paths, entry.name, entry.mark)
    return [*out, *_sweep(paths, entry.name)]


def _asked_to_stop(entry: Entry) -> bool:
    try:
        ask(f"{entry.url}/v1/shutdown", token=entry.token, body=b"", limit=ASK_LIMIT)
    except TimeoutError:
        return False
    except (OSError, http.client.HTTPException):  # it may have gone before its reply
        return True
    return True


def _gone(entry: Entry, limit: float) -> bool:
    return _until(lambda: not entry.is_alive(), limit)


def _until(condition: Callable[[], bool], limit: float) -> bool:
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True


def _sweep(paths: Paths, name: str) -> list[str]:
    """End the workers that a hive which is gone has left."""
    with locked(standing.lock_of(paths, name)) as free:
        killed = sweep(standing.tree_of(paths, name), "") if free else []
    return [f"killed {len(killed)} processes that it left"] if killed else []


@contextlib.contextmanager
def _turn(paths: Paths, name: str) -> Generator[None]:
    """One at a time for each name."""
    deadline = time.monotonic() + TURN_LIMIT
    while time.monotonic() < deadline:
        with locked(paths.state / f"hive-{name}.turn") as mine:
            if mine:
                yield
                return
        time.sleep(POLL)
    raise TimedOut(f"another command has been busy with hive {name} for {TURN_LIMIT:g} s")
