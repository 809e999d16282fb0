"""The refusal of what only a sampler with a grammar can do."""

from __future__ import annotations

from rbee.backend_api import Generation
from rbee.errors import ValidationFailed

_ASKED_AS = {"grammar": "grammar", "json_schema": "json_schema", "must_call": "tool_choice"}


def refuse_shapes(request: Generation, backend: str) -> None:
    """For a backend that writes freely. Raises ValidationFailed for the first shape asked for."""
    for name, field in _ASKED_AS.items():
        if getattr(request, name) not in (None, ()):
            raise ValidationFailed(
                f"{field}: {backend} cannot make an answer take a given shape",
                field=field,
                constraint=f"none with {backend}",
                action="Use a GGUF file of the model with llamacpp, or ask for plain text.",
            )
