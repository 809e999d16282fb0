"""What a worker is asked for a job. Pure: owns the form only, never sends it."""

from __future__ import annotations

from rbee.core.effects import Dispatch
from rbee.daemons.queen.streams import JobStream
from rbee.errors import RbeeError
from rbee.protocol.base import builtins
from rbee.protocol.messages import schema_of
from rbee.protocol.operations import Embed, Infer
from rbee.protocol.workers import Execute

_GIVEN_AS = {"json_schema": "response_format", "must_call": "tool_choice"}


def as_given(error: RbeeError) -> None:
    """Let a worker's error name the field that the user gave, where it has another name here."""
    field = error.details.get("field")
    given = _GIVEN_AS.get(field) if isinstance(field, str) else None
    if given is not None:
        error.details["field"] = given


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
        tools=builtins(request.offered()),
        must_call=request.must_call(),
        several_calls=request.parallel_tool_calls and isinstance(request.tool_choice, str),
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
