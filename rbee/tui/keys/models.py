"""Keys of the screen Models."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {"models": "Models"}
ACTIONS = [
    Action("model.download", "d", "download", "Download a model", "models", here=False),
    Action("model.copy", "p", "copy to hive", "Copy the model to a hive", "models", here=False),
    Action("model.remove", "delete", "remove", "Remove the model (asks)", "models", here=False),
]
