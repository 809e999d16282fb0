"""What a queen says of herself when she begins: what was lost, where she is, what is open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbee.daemons.queen.queen import Queen


def first_words(queen: Queen) -> Iterator[tuple[str, str]]:
    """Level and sentence of each."""
    registry = queen.machines.registry
    for kept in (queen.store, queen.journal, registry):
        if kept.set_aside is not None:
            yield "error", f"{kept.path.name} was unreadable and set aside: {kept.set_aside}"
    for name in registry.unread:
        yield "error", f"what hives.db says of {name} cannot be read: add it again"
    yield "info", f"listening on {queen.url}"
    for what in queen.access.posture(queen.doors):
        yield "warning", what
