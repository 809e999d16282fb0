"""What is known of a model before it is loaded, told from its header: a ModelInfo.

Owns the way from a checked header to the figures of the memory preflight and the capabilities.
Pure; where the header came from, a disk or the first megabytes over HTTP, is the caller's business.
"""

from __future__ import annotations

import re

from rbee.models import gguf_sanity
from rbee.models.estimate import estimate
from rbee.models.gguf import Header
from rbee.protocol.hives import ModelInfo
from rbee.protocol.memory import KvWindow

_TOOLS = re.compile(r"\btools\b")
_EMBEDDERS = re.compile(r"(.*-)?bert(-.*)?|.*-embedding")


def info_of(
    header: Header, *, name: str, ref: str, path: str, size: int, digest: str | None = None
) -> ModelInfo:
    """The ModelInfo of a GGUF model whose file has `size` bytes; `path` is "" for one not here.

    Raises ModelCorrupted, with `name`, for a header that no backend would survive.
    """
    gguf_sanity.check(header, name)
    context = header.get("context_length")
    embedder = header.get("pooling_type") is not None or _EMBEDDERS.fullmatch(header.architecture)
    need = estimate(header)
    return ModelInfo(
        id=name.removesuffix(".gguf"),
        ref=ref,
        path=path,
        format="gguf",
        size=size,
        architecture=header.architecture,
        quant=header.quant,
        parameters=header.parameters,
        context=context if isinstance(context, int) and context > 0 else None,
        weights_bytes=need.weights,
        kv_bytes_per_token=need.kv_per_token,
        gpu_weights_bytes=need.gpu_weights,
        kv_windows=[KvWindow(tokens=n, bytes_per_token=size) for n, size in need.windows],
        state_bytes=need.state,
        compute_bytes=need.compute,
        heads=need.heads,
        row_bytes=need.row,
        capabilities=["embedding" if embedder else "text-gen"],
        tools=not embedder and _speaks_of_tools(header),
        digest=digest,
    )


def _speaks_of_tools(header: Header) -> bool:
    """Whether a worker will offer tools is known when it has tried the template; this is for
    listings."""
    template = header.metadata.get("tokenizer.chat_template")
    own = "tokenizer.chat_template.tool_use" in header.metadata
    return own or (isinstance(template, str) and _TOOLS.search(template) is not None)
