"""What a worker is asked for a job, and how several streams are read as one."""

from __future__ import annotations

import anyio
import pytest

from rbee.backend_api import Embedding, Generation
from rbee.core.effects import Dispatch
from rbee.core.jobs import Job
from rbee.daemons.queen import streams
from rbee.daemons.queen.asking import execute_of
from rbee.daemons.queen.streams import JobStream, read_all
from rbee.daemons.worker.requests import request_of
from rbee.protocol.base import convert, decode, encode
from rbee.protocol.jobs import EventType
from rbee.protocol.operations import Embed, Infer, Operation
from rbee.protocol.workers import Execute


def asked(operation: Operation, stream: JobStream | None = None) -> Execute:
    """What arrives at the worker."""
    job = Job(job_id="j-1", request=operation, created_at=0.0, queued_mono=0.0)
    dispatch = Dispatch(job, 1, "home", "w-01", "http://127.0.0.1:9300", "llamacpp")
    return decode(encode(execute_of(dispatch, stream or JobStream(), "j-1.1", ids=True)), Execute)


def test_everything_a_user_can_say_arrives() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    call = {"function": {"name": "f", "arguments": {"x": 1}}, "id": "c", "type": "function"}
    operation = convert(
        {
            "operation": "infer", "model": "m", "tools": [tool],
            "messages": [
                {"role": "user", "content": "x"},
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "content": "1", "tool_call_id": "c"},
            ],
            "max_tokens": 5, "temperature": 0.1, "top_p": 0.2, "top_k": 3, "min_p": 0.4,
            "repetition_penalty": 1.5, "presence_penalty": 0.6, "frequency_penalty": 0.7,
            "logit_bias": {"8": 9}, "seed": 10, "stop": ["s"], "ignore_eos": True, "logprobs": 11,
            "response_format": {"type": "json_schema", "json_schema": {"schema": {"a": {}}}},
            "cache": False, "deterministic": True,
        },
        Infer,
    )  # fmt: skip
    assert request_of(asked(operation)) == Generation(
        messages=(
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "1", "tool_call_id": "c"},
        ),
        tools=(tool,), max_tokens=5, temperature=0.1, top_p=0.2, top_k=3, min_p=0.4,
        repetition_penalty=1.5, presence_penalty=0.6, frequency_penalty=0.7, logit_bias={8: 9},
        seed=10, stop=("s",), ignore_eos=True, logprobs=11, json_schema={"a": {}}, cache=False,
        deterministic=True,
    )  # fmt: skip


def test_the_defaults_of_an_operation_are_those_of_the_backend() -> None:
    said = ({"role": "user", "content": "x"},)
    assert request_of(asked(Infer(model="m", prompt="x"))) == Generation(messages=said)
    assert request_of(asked(Infer(model="m", prompt="x", raw=True))) == Generation(prompt="x")
    assert request_of(asked(Infer(model="m", prompt="x", grammar="g", raw=True))) == Generation(
        prompt="x", grammar="g"
    )


def test_texts_are_asked_for_as_one_json_reply() -> None:
    order = asked(Embed(model="m", input="x", normalize=False))
    assert not order.stream
    assert request_of(order) == Embedding(("x",), normalize=False)


def test_a_later_run_is_told_what_the_readers_have() -> None:
    stream = JobStream()
    stream.append(EventType.TOKEN, b'{"t":"It","i":0}', b"[11]")
    stream.append(EventType.TOKEN, b'{"t":" is \\u00e9","i":1}', b"[12,13]")
    order = asked(Infer(model="m", prompt="x"), stream)
    assert (order.emitted, order.emitted_ids, order.emitted_tokens) == ("It is é", [11, 12, 13], 3)
    stream.append(EventType.TOKEN, b'{"t":"!","i":3}')
    order = asked(Infer(model="m", prompt="x"), stream)
    assert (order.emitted, order.emitted_ids, order.emitted_tokens) == ("It is é!", [], 4)


@pytest.mark.anyio
async def test_several_streams_are_read_as_they_come_to_the_last_end() -> None:
    first, second = JobStream(), JobStream()
    first.append(EventType.TOKEN, b"1")
    seen: list[tuple[int, str]] = []

    async def read() -> None:
        async for which, batch in read_all([first, second]):
            seen.extend((which, data.decode()) for _, data in batch)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            assert seen == [(0, "1")]
            second.append(EventType.TOKEN, b"2")
            first.append(EventType.END, b"3")
            await anyio.wait_all_tasks_blocked()
            assert seen == [(0, "1"), (0, "3"), (1, "2")]
            second.append(EventType.TOKEN, b"4")
            await anyio.wait_all_tasks_blocked()
            second.append(EventType.END, b"5")
    assert seen[3:] == [(1, "4"), (1, "5")]
    assert not first.wakers
    assert not second.wakers


@pytest.mark.anyio
async def test_silence_is_told_and_a_reader_that_goes_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "KEEPALIVE", 0.01)
    quiet = [JobStream(), JobStream()]
    with anyio.fail_after(10):
        async for which, batch in read_all(quiet):
            assert (which, batch) == (0, [])
            break
        for stream in quiet:
            stream.close()
        assert [item async for item in read_all(quiet)] == []
    assert not quiet[0].wakers
