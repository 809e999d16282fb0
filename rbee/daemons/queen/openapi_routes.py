"""What each public route takes and gives, by the structs that its handler decodes and encodes.

A table and nothing else; `openapi` writes the document from it, and a test says when a route is
missing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rbee.daemons.queen.anthropic_params import CountRequest, MessagesRequest
from rbee.daemons.queen.api_catalog import Garbage, Import
from rbee.daemons.queen.ollama_params import ChatRequest as OllamaChat
from rbee.daemons.queen.ollama_params import (
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    ModelRequest,
    PullRequest,
)
from rbee.daemons.queen.openai_params import ChatRequest, CompletionRequest, EmbeddingRequest
from rbee.daemons.queen.responses_params import ResponseRequest
from rbee.protocol.access import KeyInfo, MadeKey, NewKey, UsageReport
from rbee.protocol.colony import Health, Info
from rbee.protocol.decisions import Decisions, PolicyInfo, Why
from rbee.protocol.hives import HiveInfo
from rbee.protocol.jobs import JobAccepted, JobInfo
from rbee.protocol.machines import Around, HiveChange
from rbee.protocol.models import (
    CatalogueEntry,
    DownloadInfo,
    ForeignModel,
    FoundModel,
    GarbageReport,
    HeldModel,
    Search,
    Spot,
)
from rbee.protocol.operations import HiveAdd, Operation
from rbee.protocol.queue import QueueInfo
from rbee.protocol.workers import WorkerInfo

TEXT, FLAG = {"type": "string", "minLength": 1}, {"type": "string", "enum": ["true", "false"]}


def whole(least: int, most: int) -> dict[str, Any]:
    """A number within bounds."""
    return {"type": "integer", "minimum": least, "maximum": most}


@dataclass(frozen=True)
class Told:
    """One route. `reply`: a struct, or the fields of an object, each of a struct or a list of it;
    None: an object described where `see` says. `streams`: it may also be server-sent events."""

    summary: str
    body: Any = None
    reply: Any = None
    status: int = 200
    query: Mapping[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    required: tuple[str, ...] = ()
    streams: bool = False
    text: bool = False
    lines: bool = False
    """It may also be JSON line by line."""
    bare: bool = False
    """It has no body."""
    tag: str = "colony"


LOG = {"lines": whole(1, 2000), "follow": FLAG}
ROUTES: dict[str, Told] = {
    "GET /health": Told("Whether it is well", reply=Health),
    "GET /metrics": Told("Figures for Prometheus", text=True),
    "GET /v1/info": Told("Versions and features", reply=Info),
    "GET /openapi.json": Told("This document"),
    "POST /v1/jobs": Told("Submit an operation", Operation, JobAccepted, 202, tag="jobs"),
    "GET /v1/jobs": Told(
        "List jobs, newest first", reply={"jobs": [JobInfo]}, tag="jobs",
        query={"state": TEXT, "dead": FLAG, "limit": whole(1, 1000)},
    ),
    "GET /v1/jobs/{job_id}": Told("One job", reply=JobInfo, tag="jobs"),
    "DELETE /v1/jobs/{job_id}": Told("Cancel a job", reply=JobInfo, tag="jobs"),
    "GET /v1/jobs/{job_id}/stream": Told(
        "A job's events, from the start or after a number", streams=True, tag="jobs",
        query={"after": whole(0, 1 << 53), "follow": FLAG},
    ),
    "GET /v1/jobs/{job_id}/decision": Told("Why it runs where it runs", reply=Why, tag="jobs"),
    "POST /v1/jobs/{job_id}/retry": Told(
        "The same request as a new job", reply=JobAccepted, status=202, tag="jobs"
    ),
    "GET /v1/workers": Told("The workers", reply={"workers": [WorkerInfo]}),
    "GET /v1/workers/{worker_id}": Told("One worker", reply=WorkerInfo),
    "GET /v1/workers/{worker_id}/logs": Told("A worker's log", query=LOG, streams=True),
    "GET /v1/logs": Told("The queen's log", query=LOG, streams=True),
    "GET /v1/queue": Told("Who waits", reply=QueueInfo, tag="jobs"),
    "GET /v1/policy": Told("What decides where work goes", reply=PolicyInfo, tag="jobs"),
    "GET /v1/decisions": Told(
        "The latest decisions", reply=Decisions, query={"limit": whole(1, 1000)}, tag="jobs"
    ),
    "GET /v1/hives": Told("The hives", reply={"hives": [HiveInfo]}, tag="hives"),
    "POST /v1/hives": Told("Add a machine", HiveAdd, HiveInfo, 201, tag="hives"),
    "GET /v1/hives/nearby": Told(
        "Machines that could be added", reply=Around, query={"lan": FLAG}, tag="hives"
    ),
    "GET /v1/hives/{name}": Told("One hive", reply=HiveInfo, tag="hives"),
    "PATCH /v1/hives/{name}": Told("Change a machine", HiveChange, HiveInfo, tag="hives"),
    "DELETE /v1/hives/{name}": Told("Forget a machine", tag="hives"),
    "GET /v1/hives/{name}/logs": Told("A hive's log", query=LOG, streams=True, tag="hives"),
    "GET /v1/catalog/models": Told(
        "Models on the colony's disks", reply={"models": [HeldModel]}, tag="models"
    ),
    "GET /v1/catalog/models/{model:path}": Told("One of them", reply=HeldModel, tag="models"),
    "GET /v1/catalog/search": Told(
        "Search the hub", reply=Search, query={"q": TEXT, "limit": whole(1, 50)}, required=("q",),
        tag="models",
    ),
    "GET /v1/catalog/look": Told(
        "One repository of the hub", reply=FoundModel, query={"model": TEXT}, required=("model",),
        tag="models",
    ),
    "GET /v1/catalog/fits": Told(
        "Where a model would run", reply={"spots": [Spot]}, query={"model": TEXT},
        required=("model",), tag="models",
    ),
    "GET /v1/catalog/transfers": Told(
        "Downloads that run", reply={"transfers": [DownloadInfo]}, tag="models"
    ),
    "GET /v1/catalog/foreign": Told(
        "Models of other programs", reply={"models": [ForeignModel]}, query={"hive": TEXT},
        tag="models",
    ),
    "POST /v1/catalog/import": Told("Take over a model", Import, CatalogueEntry, tag="models"),
    "POST /v1/catalog/gc": Told("Clear away leftovers", Garbage, GarbageReport, tag="models"),
    "GET /v1/events/stream": Told("Events of the colony", streams=True),
    "GET /v1/keys": Told("The keys", reply={"keys": [KeyInfo]}, tag="access"),
    "POST /v1/keys": Told("Make a key", NewKey, MadeKey, 201, tag="access"),
    "DELETE /v1/keys/{name}": Told("Withdraw a key", tag="access"),
    "POST /v1/keys/{name}/rotate": Told("Renew a key", reply=MadeKey, tag="access"),
    "GET /v1/usage": Told("What was used", reply=UsageReport, query={"days": whole(1, 3660)},
                          tag="access"),
    "POST /v1/stay": Told("Stay until stopped"),
    "POST /v1/shutdown": Told("Stop, with all that runs", status=202),
    "POST /v1/chat/completions": Told("Chat", ChatRequest, streams=True, tag="openai"),
    "POST /v1/completions": Told("Go on with text", CompletionRequest, streams=True, tag="openai"),
    "POST /v1/embeddings": Told("Texts as vectors", EmbeddingRequest, tag="openai"),
    "GET /v1/models": Told("The models that can be named", tag="openai"),
    "GET /v1/models/{model:path}": Told("One of them", tag="openai"),
    "POST /v1/responses": Told("A turn that is kept", ResponseRequest, streams=True, tag="openai"),
    "GET /v1/responses/{response_id}": Told("One that was kept", tag="openai"),
    "DELETE /v1/responses/{response_id}": Told("It is kept no more", tag="openai"),
    "POST /v1/messages": Told("A message", MessagesRequest, streams=True, tag="anthropic"),
    "POST /v1/messages/count_tokens": Told(
        "How many tokens it has", CountRequest, tag="anthropic"
    ),
    "POST /api/generate": Told("Answer a prompt", GenerateRequest, lines=True, tag="ollama"),
    "POST /api/chat": Told("Answer messages", OllamaChat, lines=True, tag="ollama"),
    "POST /api/embed": Told("Texts as vectors", EmbedRequest, tag="ollama"),
    "POST /api/embeddings": Told("A text as a vector", EmbeddingsRequest, tag="ollama"),
    "GET /api/tags": Told("The models that can be named", tag="ollama"),
    "GET /api/ps": Told("The models that are loaded", tag="ollama"),
    "POST /api/show": Told("One model", ModelRequest, tag="ollama"),
    "GET /api/version": Told("The version that is spoken", tag="ollama"),
    "POST /api/pull": Told("Fetch a model", PullRequest, lines=True, tag="ollama"),
    "DELETE /api/delete": Told("Delete a model", ModelRequest, bare=True, tag="ollama"),
    "POST /api/copy": Told("Refused: names are settings", tag="ollama"),
    "POST /api/create": Told("Refused: models come as files", tag="ollama"),
    "POST /api/push": Told("Refused: nothing is sent away", tag="ollama"),
}  # fmt: skip
