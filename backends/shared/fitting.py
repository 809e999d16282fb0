"""Whether a request fits into the context, said with both numbers."""

from __future__ import annotations

from rbee.errors import ContextLengthExceeded


def check_length(required: int, available: int, what: str, *, action: str | None = None) -> None:
    """Raises ContextLengthExceeded with both numbers."""
    if required > available:
        raise ContextLengthExceeded(
            f"{what} takes {required} tokens, and the context holds {available}",
            action=action,
            required=required,
            available=available,
        )
