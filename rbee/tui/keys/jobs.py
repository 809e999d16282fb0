"""Keys of the screen Jobs."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {"jobs": "Jobs"}
ACTIONS = [
    Action("job.cancel", "c", "cancel", "Cancel the job (asks)", "jobs", here=False),
    Action("job.retry", "R", "retry", "Run the job again", "jobs", here=False),
]
