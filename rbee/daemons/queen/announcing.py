"""Telling the local network that rbee is here, where the user asked for that. Owns nothing."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from rbee import __version__
from rbee.errors import RbeeError


async def announce(name: str, narrate: Callable[[str, str, str], None]) -> None:
    """Until cancelled. Where it cannot be done that is narrated, once."""
    from rbee.discovery.lan import announced

    try:
        async with announced(name, __version__):
            await anyio.sleep_forever()
    except RbeeError as exc:
        narrate("queen", f"not announced on the network: {exc}", "warning")
