"""`rbee` and `rbee --no-tui`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rbee.commands.common import settings_and_paths
from rbee.errors import InvalidRequest

if TYPE_CHECKING:
    from rbee.client import QueenKeeper
    from rbee.paths import Paths
    from rbee.tui.app import RbeeApp


def headless(flags: Mapping[str, str]) -> int:
    """The queen in this process, log on stderr, until a signal."""
    from rbee.daemons.queen.main import serve

    settings, paths = settings_and_paths(flags)
    return serve(settings, paths, reload=lambda: settings_and_paths(flags)[0])


def screen(flags: Mapping[str, str], *, model: str | None) -> int:
    """The dashboard; prints what it left behind."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidRequest(
            "the dashboard needs a terminal",
            action="Use `rbee --no-tui` for the queen alone, or `rbee infer` to ask a model.",
        )
    from rbee.daemons.launch import Keeper
    from rbee.tui.background import background_is_dark
    from rbee.tui.theme_shelf import AUTO

    settings, paths = settings_and_paths(flags)
    asked = settings.tui.theme == AUTO
    app = screens(
        paths,
        Keeper(settings, paths),
        flags=flags,
        model=model,
        dark=background_is_dark(fd=sys.stdin.fileno()) if asked else None,
    )
    line = app.run()
    if line:
        sys.stderr.write(f"{line}\n")
    return app.return_code or 0


def screens(
    paths: Paths,
    keeper: QueenKeeper,
    *,
    flags: Mapping[str, str],
    model: str | None = None,
    dark: bool | None = None,
) -> RbeeApp:
    """The app with this user's settings, in a terminal or in a browser."""
    from rbee.tui.app import RbeeApp  # 300 ms
    from rbee.tui.desk import SettingsDesk

    return RbeeApp(
        keeper=keeper,
        desk=SettingsDesk(paths, check=RbeeApp.check_keys, flags=flags),
        model=model,
        themes_folder=paths.themes_dir,
        dark=dark,
        chats_folder=paths.chats_dir,
    )
