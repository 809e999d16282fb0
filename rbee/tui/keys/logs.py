"""Keys of the screen Logs."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {"logs": "Logs", "sources": "Sources of logs"}
ACTIONS = [
    Action("logs.follow", "f", "follow", "Follow the newest line", "logs", "follow", True, True),
    Action(
        "logs.level", "v", "level", "Narration, then info, then all of it", "logs", "level",
        True, True,
    ),
    Action("logs.find", "slash", "find", "Find in what is shown", "logs", "find", True, True),
    Action("logs.next", "n", "next", "Next match", "logs", "match(1)"),
    Action("logs.previous", "N", "previous", "Previous match", "logs", "match(-1)"),
    Action("logs.pause", "space", "pause", "Stand still, and go on", "logs", "pause", False, True),
    Action("logs.wrap", "w", "wrap", "Wrap long lines, or clip them", "logs", "wrap", True, True),
    Action("logs.save", "ctrl+s", "save", "Save what is shown to a file", "logs", "save",
           True, True),
    Action("logs.copy", "y", "copy", "Copy the line", "logs", "copy_line", True, True),
    Action("logs.copy_command", "Y", "copy", "Copy as a command", "logs", "copy_command"),
    Action("logs.choose", "enter,space", "choose", "Show this source", "sources", "choose"),
]  # fmt: skip
