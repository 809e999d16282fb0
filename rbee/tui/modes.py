"""Which screen each of the nine modes shows.

A screen's module is imported when it is shown for the first time: together they would double the
time until the first picture (the chat alone brings a Markdown parser).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rbee.tui.screens.dashboard import Dashboard

if TYPE_CHECKING:
    from textual.screen import Screen


def _hives() -> Screen[Any]:
    from rbee.tui.screens.hives import Hives

    return Hives()


def _workers() -> Screen[Any]:
    from rbee.tui.screens.workers import Workers

    return Workers()


def _models() -> Screen[Any]:
    from rbee.tui.screens.models import Models

    return Models()


def _jobs() -> Screen[Any]:
    from rbee.tui.screens.jobs import Jobs

    return Jobs()


def _chat() -> Screen[Any]:
    from rbee.tui.screens.chat import Chat

    return Chat()


def _logs() -> Screen[Any]:
    from rbee.tui.screens.logs import Logs

    return Logs()


def _code() -> Screen[Any]:
    from rbee.tui.screens.code import Code

    return Code()


def _settings() -> Screen[Any]:
    from rbee.tui.screens.settings import Settings

    return Settings()


SCREENS: dict[str, str | Callable[[], Screen[Any]]] = {
    "dashboard": Dashboard,
    "hives": _hives,
    "workers": _workers,
    "models": _models,
    "jobs": _jobs,
    "chat": _chat,
    "logs": _logs,
    "code": _code,
    "settings": _settings,
}
