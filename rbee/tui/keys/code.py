"""Keys of the screen Code: what decides where work goes, to be read."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {"code": "Scheduler"}
ACTIONS = [
    Action("code.why", "w", "why", "The whole decision", "code", "side('Decision')", True),
    Action("code.policy", "p", "policy", "What the policy does", "code", "side('Policy')", True),
]
