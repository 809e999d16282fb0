"""Keys of the screen Workers."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {"workers": "Workers"}
ACTIONS = [
    Action("worker.restart", "R", "restart", "Restart the worker", "workers", here=False),
    Action("worker.move", "m", "move", "Move the worker elsewhere", "workers", here=False),
]
