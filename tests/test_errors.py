"""The error tree: every class can be told apart, tells what to do, and survives the wire."""

from __future__ import annotations

import json
import re

import pytest

from rbee import errors
from rbee.errors import BY_CODE, BadGateway, RbeeError

CLASSES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, RbeeError) and kind is not RbeeError
]


def test_no_class_is_left_out_by_the_list():
    def below(kind: type[RbeeError]) -> set[type[RbeeError]]:
        return {kind, *(leaf for sub in kind.__subclasses__() for leaf in below(sub))}

    ours = {kind for kind in below(RbeeError) if kind.__module__.startswith(f"{errors.__name__}.")}
    assert ours == {RbeeError, *CLASSES}


def test_codes_are_upper_snake_and_each_belongs_to_one_class():
    codes = [kind.code for kind in CLASSES]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[A-Z]+(_[A-Z]+)*", code) for code in codes)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_names_its_own_code_status_and_action(kind: type[RbeeError]):
    assert "code" in vars(kind)
    assert 400 <= kind.status <= 599
    assert kind.exit_code in {1, 2, 124, 130, 137, 255}
    assert kind("it broke").action.strip()
    assert kind.__doc__


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_comes_back_from_its_body(kind: type[RbeeError]):
    sent = kind("3 of 4 broke", action="Mend it.", required=4, available=[1, 2])
    back = RbeeError.from_body(json.loads(json.dumps(sent.body())), kind.status)
    assert type(back) is kind
    assert (back.message, back.action, back.details) == (sent.message, "Mend it.", sent.details)
    assert back.body() == sent.body()
    assert BY_CODE[kind.code] is kind


def test_an_error_without_an_action_gets_its_class_hint():
    error = errors.QueenUnreachable("nobody there")
    assert error.body()["error"]["details"] == {"suggested_action": "Start one: rbee queen start."}
    back = RbeeError.from_body({"error": {"code": "QUEUE_FULL", "message": "full"}})
    assert back.action == errors.QueueFull.hint


def test_an_unknown_code_keeps_its_message():
    back = RbeeError.from_body({"error": {"code": "FROM_THE_FUTURE", "message": "hm"}}, 418)
    assert type(back) is RbeeError
    assert back.message == "hm"


@pytest.mark.parametrize("body", [None, [], "text", {}, {"error": None}, {"error": "text"}])
def test_what_is_no_error_body_is_a_bad_gateway(body: object):
    back = RbeeError.from_body(body, 503)
    assert isinstance(back, BadGateway)
    assert "503" in back.message


def drawn() -> set[str]:
    assert errors.__doc__ is not None
    found = list[str]()
    for line in errors.__doc__.splitlines():
        if re.search(r"[├└│]", line):
            found += re.findall(r"[A-Z][A-Za-z]+", re.sub(r"\(.*?\)", "", line))
    assert len(found) == len(set(found)), "a class is drawn twice"
    return set(found)


def test_the_drawing_names_every_class_and_no_other():
    assert drawn() == {kind.__name__ for kind in CLASSES}


def test_the_drawing_gives_the_status_of_every_branch():
    assert errors.__doc__ is not None
    for name, status in re.findall(r"([A-Z][A-Za-z]+) (\d{3})\b", errors.__doc__):
        kind = getattr(errors, name)
        assert kind.status == int(status), name
