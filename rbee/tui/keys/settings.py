"""Keys of the screen Settings."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {"settings": "Settings"}
ACTIONS = [
    Action("settings.undo", "u", "undo", "Undo the last change", "settings", here=False),
    Action("settings.open", "o", "open file", "Open the settings file", "settings", here=False),
]
