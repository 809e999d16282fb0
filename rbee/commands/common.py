"""What commands share: settings, and a client on a queen that is found or started."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

from rbee.client import QueenClient
from rbee.narration import Narrator
from rbee.paths import Paths
from rbee.settings import Settings, load

T = TypeVar("T")


def settings_and_paths(flags: Mapping[str, str] | None = None) -> tuple[Settings, Paths]:
    """This user's. Raises SettingsError."""
    paths = Paths.user()
    return load(paths=paths, flags=flags).settings, paths


@asynccontextmanager
async def client(narrator: Narrator, *, ephemeral: bool = False) -> AsyncGenerator[QueenClient]:
    """A client of the running queen, or of one that is started for this."""
    from rbee.daemons import launch  # 100 ms

    settings, paths = settings_and_paths()
    async with (
        launch.queen(settings, paths, ephemeral=ephemeral, narrate=narrator.say) as url,
        QueenClient(url) as it,
    ):
        yield it


def ask(call: Callable[[QueenClient], Awaitable[T]]) -> T:
    """Run one call on a queen that is found or started."""

    async def run() -> T:
        async with client(Narrator()) as it:
            return await call(it)

    return anyio.run(run)
