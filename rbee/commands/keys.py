"""`rbee key create|list|revoke|rotate` and `rbee usage`, with a running queen or without one.

A queen that runs is asked, so that she notices at once; else the files are read and written here,
under her lock, so that none can start meanwhile.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from rbee.access.keys import Keys, check_name
from rbee.access.usage import DAY, Usage
from rbee.client import QueenClient
from rbee.commands.common import settings_and_paths
from rbee.errors import Conflict, ValidationFailed
from rbee.narration import Narrator
from rbee.output import moment, print_json, print_table
from rbee.paths import Paths
from rbee.protocol.access import YEARS, KeyInfo, MadeKey, NewKey, UsageReport
from rbee.protocol.base import convert

T = TypeVar("T")
_SPAN = re.compile(r"(\d{1,6})([mhdwy])")
_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}


def create(
    name: str,
    *,
    scopes: list[str],
    expires: str | None,
    requests: int | None,
    tokens: int | None,
    as_json: bool,
) -> int:
    """Make a key and print it: the key alone on stdout."""
    check_name(name)
    asked = {
        "name": name,
        "scopes": list(dict.fromkeys(scopes)),
        "expires_in": _span(expires) if expires is not None else None,
        "requests_per_minute": requests,
        "tokens_per_minute": tokens,
    }
    new = convert(asked, NewKey)
    made = _ask(lambda queen: queen.create_key(new), lambda keys: keys.create(new, time.time()))
    return _show(made, as_json=as_json)


def listing(*, as_json: bool) -> int:
    """All keys, without what is secret of them."""
    keys = _ask(lambda queen: queen.keys(), lambda keys: keys.infos(time.time()))
    if as_json:
        print_json({"keys": keys})
        return 0
    rows = [
        [
            key.name,
            key.fingerprint,
            "+".join(key.scopes),
            moment(key.created_at),
            _until(key),
            _limits(key),
        ]
        for key in keys
    ]
    print_table(
        ["name", "fingerprint", "scopes", "made", "expires", "limits a minute"],
        rows,
        empty="`rbee key create NAME` makes a key; none is needed on this machine to ask models.",
    )
    return 0


def revoke(name: str, *, as_json: bool) -> int:
    """Withdraw it. Raises NotFound."""
    check_name(name)
    info = _ask(
        lambda queen: queen.revoke_key(name), lambda keys: keys.revoke(name).info(time.time())
    )
    if as_json:
        print_json({"revoked": True, "name": name, "fingerprint": info.fingerprint})
    else:
        Narrator().say(f"the key {name} ({info.fingerprint}) opens nothing any more")
    return 0


def rotate(name: str, *, as_json: bool) -> int:
    """Renew it. Raises NotFound."""
    check_name(name)
    made = _ask(lambda queen: queen.rotate_key(name), lambda keys: keys.rotate(name, time.time()))
    return _show(made, as_json=as_json)


def usage(*, days: int, as_json: bool) -> int:
    """Requests and tokens by key, app and model."""
    from rbee.daemons import launch  # 100 ms

    settings, paths = settings_and_paths()

    async def ask() -> UsageReport:
        found = await launch.find(settings, paths)
        if found is not None:
            async with QueenClient(found.url) as queen:
                return await queen.usage(days=days)
        kept = Usage(paths.usage_file, settings.queen.usage_days)
        try:
            return await kept.report(time.time() - (days - 1) * DAY)
        finally:
            kept.close()

    report = anyio.run(ask)
    if as_json:
        print_json(report)
        return 0
    rows = [
        [
            row.key or "·",
            row.app,
            row.model,
            str(row.requests),
            str(row.tokens_in),
            str(row.tokens_out),
            row.first_day,
            row.last_day,
        ]
        for row in report.rows
    ]
    columns = ["key", "app", "model", "requests", "tokens in", "tokens out", "since", "last"]
    print_table(columns, rows, empty=f"nothing was asked since {report.since}")
    return 0


def _ask(running: Callable[[QueenClient], Awaitable[T]], stopped: Callable[[Keys], T]) -> T:
    """By the queen when one runs, else on the file."""
    from rbee.daemons import launch  # 100 ms

    settings, paths = settings_and_paths()

    async def ask() -> T:
        found = await launch.find(settings, paths)
        if found is None:
            return _on_file(paths, stopped)
        async with QueenClient(found.url) as queen:
            return await running(queen)

    return anyio.run(ask)


def _on_file(paths: Paths, change: Callable[[Keys], T]) -> T:
    from rbee.daemons.state import locked

    paths.ensure()
    with locked(paths.lock_file) as mine:
        if not mine:
            raise Conflict(
                "the queen is just starting or stopping", action="Try again in a few seconds."
            )
        return change(Keys(paths.keys_file))


def _show(made: MadeKey, *, as_json: bool) -> int:
    if as_json:
        print_json(made)
        return 0
    info = made.info
    narrator = Narrator()
    narrator.say(
        f"the key of {info.name} ({'+'.join(info.scopes)}; fingerprint {info.fingerprint};"
        f" expires {_until(info)}). It is shown this once: only its hash is kept."
    )
    sys.stdout.write(made.key + "\n")
    return 0


def _until(key: KeyInfo) -> str:
    if key.expires_at is None:
        return "never"
    return f"{moment(key.expires_at)}{' (over)' if key.expired else ''}"


def _limits(key: KeyInfo) -> str:
    limits = (("requests", key.requests_per_minute), ("tokens", key.tokens_per_minute))
    return ", ".join(f"{limit} {what}" for what, limit in limits if limit is not None) or "none"


def _span(text: str) -> float:
    found = _SPAN.fullmatch(text.strip().lower())
    seconds = int(found[1]) * _SECONDS[found[2]] if found is not None else 0
    if not 0 < seconds <= YEARS:
        raise ValidationFailed(
            f"--expires: {text[:40]!r} is no time up to 10 years",
            action="Write a number and m, h, d, w or y: 12h, 30d, 1y.",
            field="expires",
            constraint="1m..10y",
        )
    return float(seconds)
