"""Keys of the screen Logs."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {"logs": "Logs"}
ACTIONS = [
    Action("logs.follow", "f", "follow", "Follow the newest line", "logs", here=False),
    Action("logs.level", "v", "level", "Choose the level", "logs", here=False),
    Action("logs.wrap", "w", "wrap", "Wrap long lines", "logs", here=False),
    Action("logs.next", "n", "next", "Next match", "logs", here=False),
    Action("logs.previous", "N", "previous", "Previous match", "logs", here=False),
    Action("logs.save", "ctrl+s", "save", "Save to a file", "logs", here=False),
    Action("logs.pause", "space", "pause", "Pause", "logs", here=False),
]
