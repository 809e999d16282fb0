"""Keys of the screen Hives."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {"hives": "Hives"}
ACTIONS = [
    Action("hive.add", "a", "add", "Add a machine", "hives", "add", True, True),
    Action(
        "hive.install", "i", "install", "Install or upgrade rbee there", "hives", "install",
        True, True,
    ),
    Action(
        "hive.stop", "x", "stop/start", "Stop its hive (asks), or start it", "hives",
        "start_or_stop",
        True, True,
    ),
    Action(
        "hive.shell", "t", "shell", "Open a shell there, with your own ssh", "hives", "shell",
        True, True,
    ),
    Action("hive.log", "l", "log", "Follow its log", "hives", "log", True, True),
    Action(
        "hive.restart", "R", "restart", "Restart its hive (asks)", "hives", "restart",
        palette=True,
    ),
    Action("hive.wake", "w", "wake", "Wake it over the network", "hives", "wake", True, True),
    Action(
        "hive.remove", "delete", "remove", "Forget the machine (asks)", "hives", "remove",
        palette=True,
    ),
    Action(
        "hive.refresh", "r", "look again", "Reach it at once; below: look for machines", "hives",
        "refresh", palette=True,
    ),
    Action("hive.check", "c", "check", "Test the way there and back", "hives", "check",
           palette=True),
    Action(
        "hive.open", "enter", "open", "All of it, or what waits for an answer", "hives",
        "open_row",
    ),
]  # fmt: skip
