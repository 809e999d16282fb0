"""The machines of the user's own ssh config.

Owns which of them are tried: every Host without wildcards, except those behind others. Reads
through `rbee.ssh.hosts`; never writes, never logs in.
"""

from __future__ import annotations

import anyio
import anyio.to_thread

from rbee.discovery.finds import MAX_FINDS, Find, Finds
from rbee.errors import RbeeError
from rbee.ssh.hosts import Hosts, Machine

SOURCE = "ssh config"
_THREADS = 4
"""Reading a config may run the commands of its `Match exec`."""


async def look(hosts: Hosts, finds: Finds) -> None:
    """Add what the config names."""
    if hosts.config_file is None:
        wanted = hosts.config or hosts.home / ".ssh" / "config"
        finds.note(
            f"ssh config: there is no {wanted}; a machine that is not in it is added by its "
            "address: rbee hive add NAME user@address."
        )
        return
    try:
        names = await anyio.to_thread.run_sync(hosts.names, abandon_on_cancel=True)
    except RbeeError as exc:
        finds.note(f"ssh config: {exc.message}. {exc.action}")
        return
    if not names:
        finds.note(
            f"ssh config: {hosts.config_file} names no machine (only a Host without * and ? "
            "does); add one there, or with rbee hive add NAME user@address."
        )
    if len(names) > MAX_FINDS:
        finds.note(
            f"ssh config: it names {len(names)} machines, and the first {MAX_FINDS} are shown; "
            "the others are added by their names, too: rbee hive add NAME HOST."
        )
    limiter = anyio.CapacityLimiter(_THREADS)
    for name in names[:MAX_FINDS]:
        find = finds.add(Find(name=name, source=SOURCE, target=name))
        finds.tasks.start_soon(_resolve, hosts, find, finds, limiter)


async def _resolve(hosts: Hosts, find: Find, finds: Finds, limiter: anyio.CapacityLimiter) -> None:
    try:
        machine = await anyio.to_thread.run_sync(
            hosts.find, find.target, abandon_on_cancel=True, limiter=limiter
        )
    except RbeeError as exc:
        find.tried = True
        find.add_detail(exc.message[:300])
        return
    if way := through(machine):
        find.tried = True
        find.add_detail(way)
        return
    find.host, find.port = machine.host, machine.port
    await finds.try_port(find)


def through(machine: Machine) -> str:
    """What a machine is behind, in words; empty: it is reached directly."""
    if machine.jumps:
        return "through " + " and ".join(jump.target.host for jump in machine.jumps)
    if machine.proxy_command:
        return "through the ProxyCommand of the ssh config"
    return ""
