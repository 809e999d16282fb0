"""The routes that tell how work is placed: the policy in words, and what it decided lately.

Asks the policy and the store, and answers; nothing is decided here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from rbee.daemons.base import json_response
from rbee.daemons.queen.params import number
from rbee.errors import ValidationFailed
from rbee.protocol.base import decode
from rbee.protocol.decisions import Decision, Decisions, PolicyInfo

if TYPE_CHECKING:
    from rbee.daemons.queen.queen import Queen

log = logging.getLogger("rbee.queen")
MOST, USUAL = 1000, 100
"""Decisions in one reply."""


class PolicyRoutes:
    """Of one queen."""

    def __init__(self, queen: Queen) -> None:
        self._queen = queen

    def table(self) -> list[tuple[str, str, Callable[[Request], Awaitable[Response]]]]:
        """Method, path, handler."""
        return [
            ("GET", "/v1/policy", self.policy),
            ("GET", "/v1/decisions", self.decisions),
        ]

    async def policy(self, _request: Request) -> Response:
        """GET /v1/policy"""
        colony = self._queen.colony
        policy, limits = colony.policy, colony.limits
        figures = {
            "context of a slot": f"{policy.ctx} tokens",
            "slots of a worker": str(policy.slots or "as many as the memory allows"),
            "kept context": policy.kv_type,
            "patience of a swap": f"{limits.swap_patience:g} s",
            "batch work is put back after": f"{limits.preempt_after:g} s",
            "idle workers are kept": f"{limits.keep_alive:g} s",
            "tries of a job": str(limits.attempts),
        }
        rules = policy.rules(limits)
        return json_response(PolicyInfo(name=policy.name, rules=rules, figures=figures))

    async def decisions(self, request: Request) -> Response:
        """GET /v1/decisions"""
        limit = number(request, "limit", USUAL, 1, MOST)
        await self._queen.store.flush()
        found: list[Decision] = []
        for body in await self._queen.store.latest_decisions(limit):
            try:
                found.append(decode(body, Decision))
            except ValidationFailed as exc:
                log.error("a decision is unreadable and left out: %s", exc)
        return json_response(Decisions(decisions=found))
