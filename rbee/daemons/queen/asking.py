"""What a worker is asked for a job. Pure: owns the form only, never sends it."""

from __future__ import annotations

from rbee.core.events import Dispatch
from rbee.daemons.queen.streams import JobStream
from rbee.protocol.base import builtins
from rbee.protocol.messages import schema_of
from rbee.protocol.operations import Embed, Infer
from rbee.protocol.workers import Execute


def execute_of(
    dispatch: Dispatch, stream: JobStream, request_id: str, *, ids: bool = False
) -> Execute:
    """The worker's request for a job. A plain prompt is one user message unless it is `raw`."""
    request = dispatch.job.request
    if isinstance(request, Embed):
        return Execute(
            request_id=request_id,
            input=request.texts(),
            normalize=request.normalize,
            stream=False,
        )
    assert isinstance(request, Infer)
    messages = [message.plain() for message in request.messages or ()]
    if request.prompt is not None and not request.raw:
        messages = [{"role": "user", "content": request.prompt}]
    so_far = stream.emitted()
    return Execute(
        request_id=request_id,
        ids=ids,
        emitted=so_far.text,
        emitted_ids=so_far.ids if ids else [],
        emitted_tokens=so_far.tokens,
        prompt=request.prompt if request.raw else None,
        messages=messages or None,
        tools=builtins(request.tools),
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias=request.logit_bias,
        seed=request.seed,
        stop=list(request.stop),
        ignore_eos=request.ignore_eos,
        logprobs=request.logprobs,
        grammar=request.grammar,
        json_schema=schema_of(request.response_format),
        cache=request.cache,
        deterministic=request.deterministic,
    )
