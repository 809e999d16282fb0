"""Keys of the dashboard and of the first run."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {"dashboard": "Dashboard", "welcome": "First run"}
ACTIONS = [
    Action("worker.new", "n", "new", "Start a worker", "dashboard", "new_worker", True, True),
    Action(
        "worker.stop",
        "x",
        "stop",
        "Stop the selected worker (asks)",
        "dashboard",
        "stop_worker",
        True,
    ),
    Action("worker.log", "l", "log", "Where the worker's log is", "dashboard", "show_worker", True),
    Action(
        "worker.open", "enter", "open", "Details of the selected row", "dashboard", "open_row", True
    ),
    Action("list.filter", "slash", "filter", "Filter; ! inverts", "dashboard", "filter", True),
    Action(
        "narration.follow",
        "f",
        "follow",
        "Follow the newest narration",
        "dashboard",
        "follow",
    ),
    Action(
        "welcome.add",
        "a",
        "add",
        "Add a machine over SSH",
        "welcome",
        "screen.add_machine",
        True,
    ),
    Action(
        "worker.demo",
        "d",
        "demo",
        "Try it with the demo model",
        "welcome",
        "screen.demo",
    ),
]
