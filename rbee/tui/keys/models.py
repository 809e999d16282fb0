"""Keys of the screen Models."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {"models": "Models"}
ACTIONS = [
    Action(
        "model.download", "d", "download", "Find a model on the hub and fetch it", "models",
        "download", True, True,
    ),
    Action(
        "model.start", "n", "start", "Start a worker with the model", "models", "start_model",
        True, True,
    ),
    Action(
        "model.copy", "p", "copy to", "Copy the model to another machine", "models", "copy_model",
        True, True,
    ),
    Action(
        "model.remove", "delete", "remove", "Delete it from a machine's disk (asks)", "models",
        "remove_model", True, True,
    ),
    Action(
        "model.cancel", "x", "cancel", "Cancel a transfer (asks)", "models", "cancel_transfer",
        True, True,
    ),
    Action(
        "model.retry", "R", "retry", "Try again what failed", "models", "retry_transfer",
        True, True,
    ),
    Action(
        "model.verify", "v", "verify", "Read its files again and compare them", "models",
        "verify_model", palette=True,
    ),
    Action(
        "model.unload", "u", "unload", "End its workers when they are done", "models",
        "unload_model", palette=True,
    ),
    Action("model.open", "enter", "open", "All of the model", "models", "open_row"),
]  # fmt: skip
