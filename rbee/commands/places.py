"""Hives as commands need them: one that is named, or the one of this machine.

Owns the choice of a hive where the user named none; asks the queen what hives there are.
"""

from __future__ import annotations

import re

from rbee.client import QueenClient
from rbee.errors import HiveNotFound, HiveOffline, InvalidRequest
from rbee.protocol.hives import HiveInfo

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def check_hive(name: str | None, *, flag: str = "--hive") -> None:
    """Raises InvalidRequest for what no hive is called, before a queen is started."""
    if name is not None and not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{flag}: {name[:80]!r} is no hive's name",
            action="`rbee hive list` shows the names; they are of a-z, 0-9 and -.",
        )


def pick(hives: list[HiveInfo], name: str | None) -> HiveInfo:
    """The one of that name; without one this machine's. Raises HiveNotFound, HiveOffline."""
    if name is None:
        found = [hive for hive in hives if hive.kind == "local"] or hives
        if len(found) != 1:
            raise InvalidRequest(
                f"which hive? There are {len(hives)}", action="Name it with --hive."
            )
    else:
        found = [named(hives, name)]
    if not found[0].online:
        raise offline(found[0])
    return found[0]


def named(hives: list[HiveInfo], name: str) -> HiveInfo:
    """The one of that name, offline or not. Raises HiveNotFound."""
    for hive in hives:
        if hive.name == name:
            return hive
    raise HiveNotFound.of(name, [hive.name for hive in hives])


def offline(hive: HiveInfo) -> HiveOffline:
    """Why a hive cannot be used, as its link tells it."""
    reason = hive.link.reason if hive.link else ""
    action = hive.link.action if hive.link else ""
    why = f": {reason}" if reason else ""
    return HiveOffline(f"{hive.name} is {hive.state or 'offline'}{why}", action=action or None)


async def hive_of(queen: QueenClient, name: str | None) -> HiveInfo:
    """See `pick`."""
    return pick(await queen.hives(), name)
