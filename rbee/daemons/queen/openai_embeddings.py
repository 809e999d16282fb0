"""Vectors in OpenAI's words.

Format: https://platform.openai.com/docs/api-reference/embeddings; base64 is that of the vector's
numbers as little-endian 32-bit floats.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any

from rbee.daemons.queen.openai_params import EmbeddingRequest
from rbee.daemons.queen.openai_replies import Run, find
from rbee.errors import ValidationFailed
from rbee.protocol.jobs import EmbedData, EventType


def embedding_body(asked: EmbeddingRequest, run: Run) -> dict[str, Any]:
    """The body of a run that has ended. Raises ValidationFailed for `dimensions`."""
    result: EmbedData = find(run.stream, EventType.RESULT, EmbedData)
    size = len(result.vectors[0])
    if asked.dimensions not in (None, size):
        raise ValidationFailed(
            f"dimensions: vectors of {result.model} have {size} numbers, not {asked.dimensions}",
            field="dimensions",
            constraint=str(size),
        )
    encoded = asked.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": n, "embedding": _packed(v) if encoded else v}
        for n, v in enumerate(result.vectors)
    ]
    tokens = result.usage.prompt_tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": result.model, "usage": usage}


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
