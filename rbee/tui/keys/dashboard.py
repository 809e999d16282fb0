"""Keys of the dashboard and of the first run."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {"dashboard": "Dashboard", "devices": "Devices", "welcome": "First run"}
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
    Action("worker.log", "l", "log", "Follow the worker's log", "dashboard", "show_worker", True),
    Action(
        "worker.open", "enter", "open", "Details of the selected row", "dashboard", "open_row", True
    ),
    Action("list.filter", "slash", "filter", "Filter; ! inverts", "dashboard", "filter", True),
    Action(
        "view.graph",
        "g",
        "graph",
        "Draw graphs in blocks, braille or ASCII",
        "devices",
        "screen.graph",
        True,
        True,
    ),
    Action(
        "narration.follow",
        "f",
        "follow",
        "Follow the newest narration",
        "dashboard",
        "follow",
    ),
    Action(
        "welcome.use",
        "enter",
        "use",
        "Use this machine; or answer",
        "welcome",
        "screen.use_machine",
        True,
    ),
    Action(
        "welcome.install",
        "i",
        "install",
        "Install rbee on the added machine",
        "welcome",
        "screen.install_machine",
        True,
    ),
    Action("welcome.again", "R", "again", "Try the same again", "welcome", "screen.again", True),
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
        "The demo model, or download one",
        "welcome",
        "screen.demo",
        True,
    ),
]
