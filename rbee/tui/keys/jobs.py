"""Keys of the screen Jobs, beside those it shares with the dashboard."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {"jobs": "Jobs"}
ACTIONS = [
    Action(
        "job.cancel", "c,x", "cancel", "Cancel the job (asks)", "jobs", "cancel_job", True, True
    ),
    Action("job.retry", "R", "retry", "Ask again what failed", "jobs", "retry_job", True, True),
    Action("job.story", "l", "story", "What happened to the job", "jobs", "side('Timeline')", True),
    Action("job.why", "w", "why", "Why it went where it went", "jobs", "side('Decision')", True),
]
