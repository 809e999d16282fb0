"""What strangers may send: bytes that are no JSON, names that are none, uploads that break off."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from rbee.daemons.base import Door, json_response
from rbee.errors import RbeeError, ValidationFailed
from rbee.protocol.base import convert, decode, encode
from rbee.protocol.hives import Device
from rbee.protocol.operations import OPERATIONS, Infer, WorkerSpawn, WorkerStop, parse_operation

DEEP = b'{"operation":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"\xff", b'{"operation":"\xff"}', b'{"\xff":1}', DEEP,
        b'{"operation":"\\ud800"}', b'{"operation":1e999}', b"9" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_a_validation_error(body: bytes) -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_operation(body)
    assert caught.value.status == 400
    assert len(caught.value.message) < 200


def test_text_of_broken_bytes_is_a_validation_error() -> None:
    with pytest.raises(ValidationFailed):
        encode({"prompt": "caf\udcff"})
    with pytest.raises(ValidationFailed):
        decode(b'{"operation":"infer","model":"m","prompt":"\xc3"}', Infer)


@pytest.mark.parametrize("name", ["x" * 10_000, None, 7, ["infer"], {"a": "b"}])
def test_an_unknown_operation_is_named_at_no_length(name: object) -> None:
    with pytest.raises(ValidationFailed, match="is not one of infer") as caught:
        parse_operation(encode({"operation": name}))
    assert caught.value.details["field"] == "operation"
    assert len(caught.value.message) < 100 + len(", ".join(OPERATIONS))
    assert "x" * 41 not in caught.value.message


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Infer, {"model": "m", "prompt": "x", "device": "cpu\n"}),
        (Infer, {"model": "m\n", "prompt": "x"}),
        (Infer, {"model": "m", "prompt": "x", "hive": "home\n"}),
        (WorkerSpawn, {"model": "m", "backend": "echo\n"}),
        (WorkerStop, {"worker_id": "w-01\n"}),
    ],
)
def test_a_newline_ends_no_name(kind: type[Any], fields: dict[str, Any]) -> None:
    tag = str(kind.__struct_config__.tag)
    good = {name: value.rstrip("\n") for name, value in fields.items()}
    assert convert({"operation": tag, **good}, kind)
    with pytest.raises(ValidationFailed):
        convert({"operation": tag, **fields}, kind)


async def knock(
    messages: list[Message], headers: list[tuple[bytes, bytes]] | None = None
) -> list[Message]:
    """One POST through the door to a route that reads its body; what was sent back."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        await json_response({"size": len(body)})(scope, receive, send)

    sent: list[Message] = []
    scope: Scope = {
        "type": "http", "method": "POST", "path": "/v1/jobs", "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), *(headers or [])],
    }  # fmt: skip
    waiting = iter(messages)

    async def receive() -> Message:
        return next(waiting)

    async def send(message: Message) -> None:
        sent.append(message)

    await Door(app)(scope, receive, send)
    return sent


@pytest.mark.anyio
async def test_an_upload_that_breaks_off_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    part: Message = {"type": "http.request", "body": b"half", "more_body": True}
    with caplog.at_level(logging.INFO):
        assert await knock([part, {"type": "http.disconnect"}]) == []
    assert caplog.records == []


@pytest.mark.anyio
@pytest.mark.parametrize("length", [b"\xb2", b"0" * 19 + b"1", b"9" * 24, b"-1", b"1e3", b""])
async def test_a_length_that_is_no_number_is_refused(length: bytes) -> None:
    start, body = await knock([], [(b"content-length", length)])
    assert start["status"] == 413
    assert RbeeError.from_body(msgspec.json.decode(body["body"])).code == "PAYLOAD_TOO_LARGE"


@pytest.mark.anyio
async def test_a_whole_upload_is_answered() -> None:
    whole: Message = {"type": "http.request", "body": b"all", "more_body": False}
    start, body = await knock([whole], [(b"content-length", b"3")])
    assert (start["status"], body["body"]) == (200, b'{"size":3}')


@pytest.mark.parametrize("digits", ["1" + "0" * 400, "-9223372036854775809", "4611686018427387905"])
def test_a_number_that_no_machine_can_have_is_refused(digits: str) -> None:
    told = (
        '{"name":"cpu","kind":"cpu","label":"","memory_total":%s,"memory_used":0,"memory_free":0}'
    )
    with pytest.raises(ValidationFailed) as caught:
        decode(told % digits, Device)
    assert caught.value.details["field"] == "memory_total"
    assert decode(told % "4611686018427387904", Device).memory_total == 1 << 62
