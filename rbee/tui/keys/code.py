"""Keys of the screen Scheduler script."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {"code": "Scheduler script"}
ACTIONS = [
    Action("code.save", "ctrl+s", "save", "Save the draft", "code", here=False),
    Action("code.dry_run", "ctrl+r", "dry run", "Replay the recorded jobs", "code", here=False),
    Action(
        "code.live", "f5", "make live", "Make the draft the live policy (asks)", "code", here=False
    ),
    Action("code.api", "f1", "api", "The script's API", "code", here=False),
    Action("code.leave", "escape", "leave", "Leave the editor", "code", here=False),
]
