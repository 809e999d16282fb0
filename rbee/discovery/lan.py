"""Announcing this machine on the local network, and hearing others: multicast DNS.

Owns the use of the package zeroconf (extra `lan`): service type `_rbee._tcp` (RFC 6762, RFC 6763),
IPv4 only. What is said and what is believed is `announcement`'s. Off by default on both sides: the
queen announces where `queen.announce` is true, and listens when somebody searches.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from rbee.discovery.announcement import (
    KEYS,
    NAME,
    SERVICE,
    SSH_PORT,
    VERSION,
    Announced,
    find_of,
    host_key,
    properties,
    read,
)
from rbee.discovery.finds import Finds
from rbee.discovery.networks import own_networks
from rbee.errors import Unavailable, ValidationFailed
from rbee.ssh.groups import task_group

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncZeroconf

MAX_HEARD = 64
RESOLVE_SECONDS = 2.0
GOODBYE_SECONDS = 3.0
LOOK_EVERY = 30.0
"""Seconds between looks at this machine's addresses: a laptop is carried about."""
INSTALL = "pip install 'rbee[lan]'"


def installed() -> bool:
    """Whether announcements can be made and heard here."""
    return find_spec("zeroconf") is not None


@asynccontextmanager
async def announced(
    name: str, version: str, *, addresses: Sequence[str] | None = None, keys: Path = KEYS
) -> AsyncGenerator[None]:
    """Tell the local network of this machine for the length of a block; anew when its addresses
    change. Takes a second or two, to hear whether somebody objects.

    `name`: the hive's, a DNS label. `addresses`: instead of all of this machine's. `keys`: where
    its sshd's public keys lie. Raises Unavailable where it cannot be done, ValidationFailed.
    """
    for what, text, pattern in (("name", name, NAME), ("version", version, VERSION)):
        if not pattern.fullmatch(text):
            raise ValidationFailed(
                f"{text[:80]!r} cannot be announced", field=what, constraint=pattern.pattern
            )
    told = properties(name, version, await anyio.to_thread.run_sync(host_key, keys))
    async with task_group() as tasks:
        await tasks.start(_announce, told, list(addresses or ()))
        yield
        tasks.cancel_scope.cancel()


async def _announce(
    told: Mapping[str, str], fixed: Sequence[str], *, task_status: TaskStatus[None]
) -> None:
    """Until cancelled. Raises Unavailable when it cannot be done from the beginning."""
    begun = False
    while True:
        ours = fixed or await _own_addresses()
        with contextlib.ExitStack() as stack:
            if begun:
                stack.enter_context(contextlib.suppress(Unavailable))
            async with _opened(ours) as zeroconf:
                await _register(zeroconf, told, ours)
                if not begun:
                    task_status.started()
                begun = True
                await _until_others(ours, fixed=bool(fixed))
                continue
        await anyio.sleep(LOOK_EVERY)


async def _until_others(ours: Sequence[str], *, fixed: bool) -> None:
    """This machine has other addresses."""
    while True:
        await anyio.sleep(LOOK_EVERY)
        if not fixed and await _own_addresses() != ours:
            return


async def _register(
    zeroconf: AsyncZeroconf, told: Mapping[str, str], addresses: Sequence[str]
) -> None:
    from zeroconf.asyncio import AsyncServiceInfo

    # two machines may have one name, and on a machine with another mDNS responder it is chance who
    # hears an objection: so what has to be unique is
    label = f"{told['name'][:50]}-{secrets.token_hex(6)}"
    info = AsyncServiceInfo(
        SERVICE,
        f"{label}.{SERVICE}",
        port=SSH_PORT,
        properties=dict(told),
        server=f"{label}.local.",
        parsed_addresses=list(addresses),
    )
    with _explained():
        await (await zeroconf.async_register_service(info))


async def browse(
    seconds: float, tell: Callable[[Announced], None], *, addresses: Sequence[str] | None = None
) -> None:
    """Listen for so many seconds, and tell each machine once, at most 64 of them.

    `addresses`: this machine's on the networks to listen on, instead of all. Raises Unavailable.
    """
    send, receive = anyio.create_memory_object_stream[str](MAX_HEARD)

    def heard(
        zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        with contextlib.suppress(anyio.WouldBlock, anyio.ClosedResourceError):
            send.send_nowait(name)

    with send, receive:
        async with _opened(addresses or await _own_addresses()) as zeroconf:
            from zeroconf.asyncio import AsyncServiceBrowser

            seen: set[str] = set()
            async with AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[heard]):
                with anyio.move_on_after(seconds):
                    async with anyio.create_task_group() as tasks:
                        async for name in receive:
                            if name.lower() not in seen and len(seen) < MAX_HEARD:
                                seen.add(name.lower())
                                tasks.start_soon(_resolve, zeroconf, name, tell)


async def look(finds: Finds, seconds: float) -> None:
    """Add what announces itself within so many seconds."""
    networks = await anyio.to_thread.run_sync(own_networks)
    heard: list[str] = []

    def tell(one: Announced) -> None:
        if (find := find_of(one, networks)) is not None:
            heard.append(finds.add(find).name)

    try:
        await browse(seconds, tell)
    except Unavailable as exc:
        finds.note(f"lan: {exc.message}. {exc.action}")
        return
    if not heard:
        finds.note(
            f"lan: no other machine announced itself within {seconds:g} s; those do that run a "
            "queen whose setting queen.announce is true."
        )


async def _resolve(zeroconf: AsyncZeroconf, name: str, tell: Callable[[Announced], None]) -> None:
    from zeroconf import Error
    from zeroconf.asyncio import AsyncServiceInfo

    with contextlib.suppress(Error):  # a name that is none
        info = AsyncServiceInfo(SERVICE, name)
        if await info.async_request(zeroconf.zeroconf, RESOLVE_SECONDS * 1000):
            one = read(info.port, info.parsed_addresses(), info.properties)
            if one is not None:
                tell(one)


async def _own_addresses() -> list[str]:
    return list(await anyio.to_thread.run_sync(own_networks))


@asynccontextmanager
async def _opened(addresses: Sequence[str]) -> AsyncGenerator[AsyncZeroconf]:
    """zeroconf on the networks of these addresses of ours."""
    if not installed():
        raise Unavailable(
            "the package zeroconf, which announcements need, is not installed",
            action=f"Install it for the queen: {INSTALL}.",
        )
    if not addresses:
        raise Unavailable(
            "this machine has no IPv4 address on a local network",
            action="Connect it to a network: `ip address` shows what it has.",
        )
    await anyio.to_thread.run_sync(_load)
    with _explained():
        from zeroconf import IPVersion
        from zeroconf.asyncio import AsyncZeroconf

        zeroconf = AsyncZeroconf(interfaces=list(addresses), ip_version=IPVersion.V4Only)
    try:
        yield zeroconf
    finally:
        with anyio.move_on_after(GOODBYE_SECONDS, shield=True), _explained():
            await zeroconf.async_close()


def _load() -> None:
    import_module("zeroconf.asyncio")  # 100 ms, so not on the event loop


@contextlib.contextmanager
def _explained() -> Generator[None]:
    """What zeroconf and its sockets raise, as Unavailable."""
    from zeroconf import Error

    try:
        yield
    except (Error, OSError, RuntimeError) as exc:
        raise Unavailable(
            f"multicast DNS cannot be used: {exc or type(exc).__name__}",
            action="See who holds UDP port 5353 (ss -lunp), and whether a firewall is in the way.",
        ) from exc
