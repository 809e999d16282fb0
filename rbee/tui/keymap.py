"""Every key of every screen in one registry: bindings, footer, help and palette are read from it.

Puts together the keys of the screens (`rbee.tui.keys`). What a key does is the method named by
`method` on the widget, screen or app of that `scope`; which keys a user prefers is the app's
business (`App.set_keymap`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from textual.binding import Binding, BindingType

from rbee.tui.actions import Action, Mode
from rbee.tui.keys import (
    chat,
    code,
    dashboard,
    everywhere,
    hives,
    jobs,
    lists,
    logs,
    models,
    settings,
    workers,
)
from rbee.tui.keys.everywhere import MODES

__all__ = [
    "ACTIONS",
    "BY_ID",
    "MODES",
    "SCOPES",
    "Action",
    "Mode",
    "all_keys_text",
    "bindings",
    "key_text",
    "written",
]

_PARTS = (
    everywhere, dashboard, lists, chat, hives, workers, models, jobs, logs, code, settings,
)  # fmt: skip
ACTIONS: tuple[Action, ...] = tuple(action for part in _PARTS for action in part.ACTIONS)
SCOPES: Mapping[str, str] = {name: title for part in _PARTS for name, title in part.SCOPES.items()}
"""Scope → its heading in the help."""
BY_ID: Mapping[str, Action] = {action.id: action for action in ACTIONS}


def bindings(
    scope: str, *, priority: Iterable[str] = (), only: Iterable[str] | None = None
) -> list[BindingType]:
    """Textual bindings of a scope; those whose ids are in `priority` also work while typing.

    `only`: those ids and no others.
    """
    urgent = set(priority)
    wanted = set(BY_ID if only is None else only)
    return [
        Binding(
            action.keys,
            action.method,
            action.label,
            show=action.show,
            id=action.id,
            priority=action.id in urgent,
        )
        for action in ACTIONS
        if action.scope == scope and action.method and action.id in wanted
    ]


_KEY_TEXT = {
    "question_mark": "?",
    "slash": "/",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "escape": "esc",
    "pageup": "pgup",
    "pagedown": "pgdn",
    "delete": "del",
    "up": "↑",
    "down": "↓",
    "left": "←",
    "right": "→",
    "dollar_sign": "$",
    "exclamation_mark": "!",
    "plus": "+",
    "minus": "-",
    "full_stop": ".",
}


def written(key: str) -> str:
    """One key as guides write it: `question_mark` → `?`, the others by name."""
    head, plus, last = key.rpartition("+")
    return f"{head}{plus}{_KEY_TEXT.get(last, last)}"


def key_text(keys: str) -> str:
    """The first of `keys` as people write it: `ctrl+o` → `^o`, `question_mark` → `?`."""
    key = written(keys.split(",")[0].strip())
    return f"^{key.removeprefix('ctrl+')}" if key.startswith("ctrl+") else key


def all_keys_text(keys: str) -> str:
    """All of `keys`, for the help."""
    return " ".join(key_text(key) for key in keys.split(","))
