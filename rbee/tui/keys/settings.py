"""Keys of the screen Settings."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {"settings": "Settings", "fields": "Settings, on a value"}
ACTIONS = [
    Action("settings.change", "enter", "change", "Change the value", "settings", "change", True),
    Action("settings.undo", "u", "undo", "Undo the last change", "settings", "undo", True, True),
    Action(
        "settings.reset", "r", "reset", "Take the value out of ui.toml", "settings", "reset", True
    ),
    Action(
        "settings.open", "o", "open file", "Open the settings file in your editor", "settings",
        "open_file", True, True,
    ),
    Action("settings.unbind", "delete", "no key", "Take the key away", "settings", "unbind"),
    Action("settings.before", "left", "value before", "The value before", "fields",
           "screen.turn(-1)"),
    Action("settings.after", "right", "next value", "The next value", "fields", "screen.turn(1)"),
]  # fmt: skip
