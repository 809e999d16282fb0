"""What commands share: settings, and a client on a queen that is found or started."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import anyio

from rbee.daemons.process import open_log
from rbee.errors import InternalError, InvalidRequest, RbeeError
from rbee.narration import Narrator
from rbee.paths import Paths, make_private
from rbee.settings import Loaded, Settings, load

if TYPE_CHECKING:
    from rbee.client import QueenClient

T = TypeVar("T")
_ID = re.compile(r"[a-z0-9-]{1,64}")


def settings_and_paths(flags: Mapping[str, str] | None = None) -> tuple[Settings, Paths]:
    """This user's. Raises SettingsError."""
    paths = Paths.user()
    return read_settings(paths, flags).settings, paths


def read_settings(paths: Paths, flags: Mapping[str, str] | None = None) -> Loaded:
    """All layers; what is wrong with `ui.toml` is told on stderr. Raises SettingsError."""
    loaded = load(paths=paths, flags=flags)
    if (wrong := loaded.problem) is not None:
        sys.stderr.write(f"rbee: ui.toml is left out: {wrong.message}\n  → {wrong.action}\n")
    return loaded


def check_id(text: str, *, of: str) -> None:
    """Raises InvalidRequest for what no `job` or `worker` is called, before a queen is started."""
    if not _ID.fullmatch(text):
        raise InvalidRequest(
            f"{text[:80]!r} is no {of} id", action=f"`rbee {of} list` shows the ids."
        )


@asynccontextmanager
async def client(narrator: Narrator, *, ephemeral: bool = False) -> AsyncGenerator[QueenClient]:
    """A client of the running queen, or of one that is started for this."""
    from rbee.client import QueenClient  # 170 ms
    from rbee.daemons import launch  # 100 ms

    settings, paths = settings_and_paths()
    async with (
        launch.queen(settings, paths, ephemeral=ephemeral, narrate=narrator.say) as url,
        QueenClient(url, name="cli") as it,
    ):
        yield it


def report_defect(exc: Exception) -> InternalError:
    """Write a defect of rbee's own to a file, for its report; a user gets no stack trace."""
    import time
    import traceback

    file = Paths.user().logs_dir / "defects.log"
    action = "Please report it."
    with contextlib.suppress(OSError, RbeeError):
        make_private(file.parent)
        with open_log(file) as out, os.fdopen(os.dup(out), "w", encoding="utf-8") as text:
            text.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')}\n")
            text.writelines(traceback.format_exception(exc))
        action = f"Please report it with what {file} says."
    return InternalError(f"a defect of rbee's own ({type(exc).__name__})", action=action)


def ask(call: Callable[[QueenClient], Awaitable[T]]) -> T:
    """Run one call on a queen that is found or started."""

    async def run() -> T:
        async with client(Narrator()) as it:
            return await call(it)

    return anyio.run(run)
