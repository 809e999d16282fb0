"""What the command on another machine says is taken for no more than it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rbee.daemons.queen.remote_hive import read, said
from rbee.errors import RemoteCommandFailed
from rbee.ssh.session import Done

UP = {
    "name": "attic", "url": "http://127.0.0.1:4711", "token": "s3cret", "version": "0.1.0",
    "protocol": 1, "pid": 7, "started_at": 1.0,
}  # fmt: skip


def out(text: str) -> Done:
    return Done(0, text.encode(), b"")


def line(**other: Any) -> Done:
    return out(f"rbee-hive {json.dumps(UP | other)}\n")


def test_the_line_is_read_among_others() -> None:
    assert read(out("Welcome\n" + line().stdout.decode() + "bye\n"), "attic").token == "s3cret"


@pytest.mark.parametrize(
    "other",
    [
        {"token": "s3cret\r\nHost: elsewhere"},
        {"token": "s3cret ☃"},
        {"token": "s3cret" * 100},
        {"name": "other"},
        {"url": "http://127.0.0.1/"},
        {"url": "http://127.0.0.1:4711/" + "x" * 1000},
        {"version": "1; rm -rf ~"},
        {"version": "\x1b[2J"},
        {"protocol": 10**30},
        {"pid": "7"},
    ],
)
def test_nonsense_is_refused_and_no_token_told(other: dict[str, Any]) -> None:
    with pytest.raises(RemoteCommandFailed) as caught:
        read(line(**other), "attic")
    assert "s3cret" not in json.dumps(caught.value.body())


@pytest.mark.parametrize("text", ['rbee-hiv {"token": "s3cret"}', '{"token":"s3cret"}\nbye'])
def test_a_line_that_was_damaged_tells_no_token(text: str) -> None:
    with pytest.raises(RemoteCommandFailed) as caught:
        read(out(text), "attic")
    assert "s3cret" not in json.dumps(caught.value.body())


def test_its_errors_are_its_own_and_short() -> None:
    told = said(Done(1, b"", b"error HIVE_EXISTS: it is there\n  \xe2\x86\x92 look\n"), "attic")
    assert (told.code, told.message, told.action) == (
        "HIVE_EXISTS", "attic: it is there", "look"
    )  # fmt: skip
    odd = said(Done(1, b"", b"error NO_SUCH_CODE: odd\n"), "attic")
    assert (odd.code, odd.message) == ("REMOTE_COMMAND_FAILED", "attic: odd")
    long = said(Done(1, b"", b"error INTERNAL_ERROR: " + b"x" * 900_000), "attic")
    assert len(json.dumps(long.body())) < 10_000
    for code in (b"HOST_KEY_UNKNOWN", b"HOST_KEY_CHANGED"):
        asked = said(Done(1, b"", b"error " + code + b": trust me\n"), "attic")
        assert asked.code == "REMOTE_COMMAND_FAILED"
