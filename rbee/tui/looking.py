"""A look at the machines that could be added, through the queen; the store keeps what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbee.client import QueenClient
from rbee.errors import RbeeError
from rbee.protocol.machines import Around

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp


async def look_around(rbee: RbeeApp, *, lan: bool) -> None:
    """A few seconds. `lan`: also listen for machines that announce themselves. What went wrong
    becomes one of the notes."""
    try:
        async with QueenClient(rbee.link.require().url) as client:
            rbee.store.around = await client.nearby(lan=lan)
    except RbeeError as exc:
        rbee.store.around = Around(machines=[], notes=[f"{exc.message}; {exc.action}"])
