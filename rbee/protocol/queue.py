"""The queue as a whole: how many wait, who, and what each client has had."""

from __future__ import annotations

from rbee.protocol.base import Wire
from rbee.protocol.jobs import JobInfo


class QueueInfo(Wire, frozen=True, kw_only=True):
    """GET /v1/queue"""

    depth: dict[str, int]
    """How many wait, by priority."""
    head_wait_seconds: float
    """How long the one that waits longest has waited."""
    clients: dict[str, float]
    """Client → virtual tokens it has had, 1 for one of a prompt and 2 for one of an answer: who has
    had the least goes next."""
    jobs: list[JobInfo]
    """In the order in which they are expected to be served, at most 1000; then those that are not
    placed before a pause after a failure is over, without a position."""
