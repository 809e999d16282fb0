"""Keys of the screen Hives."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {"hives": "Hives"}
ACTIONS = [
    Action("hive.add", "a", "add", "Add a machine", "hives", here=False),
    Action("hive.install", "i", "install", "Install or upgrade rbee there", "hives", here=False),
    Action("hive.shell", "t", "shell", "Open a shell there", "hives", here=False),
]
