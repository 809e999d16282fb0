"""Hives with a process of their own: each is followed by one link, for as long as it is there.

Owns who is followed and which link gives way to which. What a hive says goes to the brain; what it
means is decided there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import anyio.abc

from rbee.core.events import Event, HiveJoined
from rbee.daemons.queen.links import SILENCE, HiveLink, HttpLink
from rbee.protocol.hives import HiveReady


@dataclass(frozen=True)
class _Followed:
    link: HttpLink
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    over: anyio.Event = field(default_factory=anyio.Event)


class Outposts:
    """`links` gets each hive that has joined, until it is gone.

    `call` has the brain handle an event, `post` puts one in her inbox; `joined` is awaited when
    the brain knows the hive.
    """

    def __init__(
        self,
        *,
        links: dict[str, HiveLink],
        call: Callable[[Event], Awaitable[object]],
        post: Callable[[Event], None],
        joined: Callable[[], Awaitable[None]],
    ) -> None:
        self._links = links
        self._call = call
        self._post = post
        self._joined = joined
        self._followed: dict[str, _Followed] = {}

    def ready(self, ready: HiveReady, tasks: anyio.abc.TaskGroup) -> None:
        """A hive has come; an older link of that name gives way.

        A hive announces itself until it is followed: a link that is on its way to the same one
        stays, or a hive that takes longer over its first answer than between two announcements
        would never be reached. Raises VersionMismatch.
        """
        old = self._followed.get(ready.name)
        there = (old.link.url, old.link.token) if old is not None and old.link.connecting else None
        if there == (ready.url, ready.token):
            return

        async def told(event: Event) -> None:
            joins = isinstance(event, HiveJoined)
            if joins:  # before that nothing is to be asked of it
                self._links[link.name] = link
            await self._call(event)
            if joins:
                await self._joined()

        # A busy brain must not keep signs of life on the way: they are put into her inbox.
        link = HttpLink(ready, told, self._post)
        if old is not None:
            old.scope.cancel()
        self._followed[ready.name] = followed = _Followed(link)
        tasks.start_soon(self._follow, followed, old)

    async def _follow(self, followed: _Followed, old: _Followed | None) -> None:
        link = followed.link
        try:
            with followed.scope:
                if old is not None:  # its farewell is not to be taken for this one's
                    with anyio.move_on_after(SILENCE):
                        await old.over.wait()
                await link.run()
        finally:
            followed.over.set()
            if self._links.get(link.name) is link:
                del self._links[link.name]
            if self._followed.get(link.name) is followed:
                del self._followed[link.name]
