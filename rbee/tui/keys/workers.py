"""Keys of the screen Workers, beside those it shares with the dashboard."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {"workers": "Workers"}
ACTIONS = [
    Action(
        "worker.restart",
        "R",
        "restart",
        "Restart the worker, or start it anew (asks)",
        "workers",
        "restart_worker",
        True,
        True,
    ),
    Action(
        "worker.drain",
        "D",
        "drain",
        "Let it finish what it runs, then stop it",
        "workers",
        "drain_worker",
        True,
        True,
    ),
    Action(
        "worker.move",
        "m",
        "move",
        "Start it elsewhere, then drain it here",
        "workers",
        "move_worker",
        True,
        True,
    ),
]
