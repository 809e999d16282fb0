"""`rbee hive scan`: one search through all sources, within a time.

Owns the time, the order and what is said when it was not enough. What each source is asked is its
own: `sshconfig`, `lan`, `tailscale`.
"""

from __future__ import annotations

from collections.abc import Mapping

import anyio
import anyio.to_thread

from rbee.discovery import announcement, sshconfig, tailscale
from rbee.discovery import lan as local_network
from rbee.discovery.finds import TRY_SECONDS, Finds, place
from rbee.errors import RbeeError
from rbee.protocol.machines import Nearby
from rbee.ssh.hosts import Hosts

SOURCES = (sshconfig.SOURCE, announcement.SOURCE, tailscale.SOURCE)


async def nearby(
    hosts: Hosts, *, lan: bool, known: Mapping[str, str], limit: float = 5.0
) -> tuple[list[Nearby], list[str]]:
    """The machines that could be added, and why a source gave nothing.

    `lan`: listen for announcements on the local network, too. `known`: `user@host[:port]` or alias
    of each machine that was added → its hive; a `finds.place` may be among them. `limit`: seconds.
    What could not be tried in that time has `answers` None and says so.
    """
    places = dict(known)
    sources = anyio.create_task_group()
    finds = Finds(sources)
    with anyio.move_on_after(limit) as time:
        async with sources:
            sources.start_soon(_add_places, hosts, known, places)
            sources.start_soon(sshconfig.look, hosts, finds)
            sources.start_soon(tailscale.look, finds)
            if lan:
                listening = max(limit - TRY_SECONDS, limit / 2)
                sources.start_soon(local_network.look, finds, listening)
    for find in finds.found:
        if not find.tried:
            find.add_detail(f"not tried within {limit:g} s")
    if time.cancelled_caught:
        finds.note(f"Not everything could be tried within {limit:g} s; search again for the rest.")
    ordered = sorted(finds.found, key=lambda find: SOURCES.index(find.source))
    return [find.nearby(places) for find in ordered], finds.notes


async def _add_places(hosts: Hosts, known: Mapping[str, str], places: dict[str, str]) -> None:
    """Where the machines that were added are reached directly, so that they are recognised under
    whatever name they are found."""
    for target, hive in known.items():
        try:
            machine = await anyio.to_thread.run_sync(hosts.find, target, abandon_on_cancel=True)
        except RbeeError:
            continue
        if not sshconfig.through(machine):
            places.setdefault(place(machine.host, machine.port), hive)
