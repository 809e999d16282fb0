"""What each route and each operation asks of a caller. A pure table; see `gate` for who applies it.

A route that is not named here needs an admin: what is new is closed until somebody has thought of
it. Aliases below `/openai` need what their originals need.

    OPEN      anybody whom the network allow-list lets in
    INTERNAL  the queen's own hives and workers; the handler checks their token itself
    INFER     any key; no key from this machine unless `queen.require_key`
    LOOK      an admin's key; no key from this machine unless `queen.require_key`
    ADMIN     an admin's key, or the owner's own commands
"""

from __future__ import annotations

from enum import StrEnum

from rbee.daemons.queen.callers import Caller, Kind, present
from rbee.errors import Forbidden, MissingApiKey, RbeeError
from rbee.protocol.base import Request as Asked


class Need(StrEnum):
    """See above."""

    OPEN = "open"
    INTERNAL = "internal"
    INFER = "infer"
    LOOK = "look"
    ADMIN = "admin"


_BY_NEED: dict[Need, str] = {
    Need.OPEN: "GET /health",
    Need.INTERNAL: "POST /v1/hives/ready|POST /v1/workers/ready|POST /v1/worker-heartbeat",
    Need.INFER: (
        "GET /v1/info|POST /v1/jobs|GET /v1/jobs/{job_id}|DELETE /v1/jobs/{job_id}"
        "|GET /v1/jobs/{job_id}/stream|GET /v1/jobs/{job_id}/decision|POST /v1/jobs/{job_id}/retry"
        "|POST /v1/chat/completions|POST /v1/completions|POST /v1/embeddings"
        "|POST /v1/responses|GET /v1/responses/{response_id}|DELETE /v1/responses/{response_id}"
        "|GET /v1/models|GET /v1/models/{model:path}|GET /openapi.json"
        "|POST /v1/messages|POST /v1/messages/count_tokens"
        "|GET /|HEAD /|POST /api/generate|POST /api/chat|GET /api/tags|POST /api/show|GET /api/ps"
        "|POST /api/embed|POST /api/embeddings|GET /api/version|HEAD /api/version"
        "|POST /api/copy|POST /api/create|POST /api/push"
    ),
    Need.LOOK: (
        "GET /metrics|GET /v1/workers|GET /v1/workers/{worker_id}|GET /v1/hives"
        "|GET /v1/hives/{name}|GET /v1/catalog/models"
        "|GET /v1/catalog/models/{model:path}|GET /v1/catalog/transfers|GET /v1/catalog/fits"
    ),
}
NEEDS: dict[str, Need] = {
    route: need for need, routes in _BY_NEED.items() for route in routes.split("|")
}
OPERATIONS: dict[str, Need] = {
    "infer": Need.INFER,
    "embed": Need.INFER,
    "queen_check": Need.INFER,
    "status": Need.LOOK,
}
"""By the operation's tag; any other needs an admin."""


def need_of(method: str, path: str) -> Need:
    """Of a route as it is written in the table of routes."""
    return NEEDS.get(f"{method} {path.removeprefix('/openai')}", Need.ADMIN)


def may(caller: Caller, need: Need) -> bool:
    """Whether a caller that has come in may do what needs this."""
    match need:
        case Need.OPEN | Need.INTERNAL | Need.INFER:
            return True
        case Need.LOOK:
            return caller.admin or caller.kind is Kind.LOCAL
        case Need.ADMIN:
            return caller.admin


def refusal(caller: Caller, what: str) -> RbeeError:
    """What a caller is told that may not do it: a better key, or one at all."""
    if caller.kind is Kind.KEY:
        return Forbidden(
            f"the key {caller.name} may ask models, and {what} needs the scope admin",
            action=f"Use an admin's key; {caller.name} keeps its scopes until it is made anew.",
            scope="admin",
        )
    return MissingApiKey(
        f"{what} needs an admin's key, from this machine, too",
        action="Use the rbee command as the user who runs the queen, or a key of your own:"
        " rbee key create NAME --scope admin",
        scope="admin",
    )


def check_operation(operation: Asked) -> None:
    """Whether the caller of the request in progress may submit it. Raises Forbidden, MissingApiKey.

    Outside of a request the queen asks herself, who may.
    """
    caller, tag = present.get(), str(operation.__struct_config__.tag)
    if caller is not None and not may(caller, OPERATIONS.get(tag, Need.ADMIN)):
        raise refusal(caller, f"the operation {tag}")
