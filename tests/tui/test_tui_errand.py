"""An operation on a machine read from its stream, and the lines it becomes."""

from __future__ import annotations

from typing import Any

import machine_data as m
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.errors import HostKeyUnknown, ValidationFailed
from rbee.protocol.base import Wire, encode
from rbee.protocol.jobs import CancelledData, ErrorData, JobState, StatusData
from rbee.protocol.machines import HiveRecord
from rbee.sse import ServerEvent
from rbee.tui.errand import MOST_STEPS, Errand, Stand
from rbee.tui.glyphs import ASCII, UNICODE
from rbee.tui.rows_errand import errand_lines
from rbee.tui.rows_hives import hive_row, machine_lines, nearby_row, version_cell
from rbee.tui.screens.adding import key_question, proposed_name, wanted
from rbee.tui.shell import ssh_command
from rbee.tui.widgets.lines import Line, width_of


def told(
    events: list[tuple[str, Any]], *, operation: str = "hive_install", pace: float = 1.0
) -> Errand:
    errand = Errand("j-1", operation, "attic")
    for at, (name, data) in enumerate(events, 1):
        errand.apply(event(at, name, data), at * pace)
    return errand


def event(number: int, name: str, data: Wire | dict[str, Any]) -> ServerEvent:
    return ServerEvent(data=encode(data).decode(), event=name, id=str(number))


def texts(lines: list[Line]) -> list[str]:
    return ["".join(text for text, _ in line) for line in lines]


def test_steps_are_ticked_off_and_the_rest_is_ahead() -> None:
    errand = told(m.installing(3, 0.6))
    assert [step.title for step in errand.steps] == [
        "look at the machine",
        "make the packages ready",
        "prepare",
        "send rbee-0.3.1-py3-none-any.whl",
        "send the small wheels",
    ]
    assert [step.stand for step in errand.steps] == [Stand.DONE] * 4 + [Stand.RUNNING]
    assert errand.steps[-1].progress == pytest.approx(0.6)
    assert errand.steps[-1].figures == "6 of 11 MiB"
    assert errand.ahead == ["6 more steps", "start its hive"]
    assert errand.steps[0].seconds == 3.0, "the two notes of the plan came in between"
    assert errand.notes[0].startswith("with llamacpp")


def test_before_the_first_step_all_phases_are_ahead() -> None:
    errand = told([m.status("looking", "looking at what it is")])
    assert errand.ahead == ["make the packages ready", "install", "start its hive"]


def test_an_event_that_comes_twice_changes_nothing() -> None:
    errand = told(m.installing(2))
    again = m.installing(2)
    for at, (name, data) in enumerate(again, 1):
        errand.apply(event(at, name, data), 99.0)
    assert [step.title for step in errand.steps][-2:] == [
        "prepare",
        "send rbee-0.3.1-py3-none-any.whl",
    ]


def test_a_story_that_was_not_seen_from_the_beginning_has_no_times() -> None:
    errand = Errand("j-1", "hive_install", "attic", fresh=False)
    for at, (name, data) in enumerate(m.installing(3), 1):
        errand.apply(event(at, name, data), at * 1.0)
    assert all(step.seconds is None for step in errand.steps)


def test_a_failure_has_its_command_its_last_lines_and_what_to_do() -> None:
    errand = told(m.failing())
    assert errand.stand is Stand.FAILED
    assert errand.steps[-1].stand is Stand.FAILED
    for wide in (False, True):
        shown = texts(errand_lines(errand, UNICODE, 76, wide=wide))
        words = " ".join(" ".join(shown).split())
        assert "✗ install" in words
        assert "$ /home/vince/.local/share/rbee/versions/0.3.1-1f2e/bin/python -m pip" in words
        assert "[Errno 28] No space left on device" in words
        assert "→ Make room there, then install again" in words
        assert "\x1b" not in words
        assert all(width_of(line) <= 76 for line in errand_lines(errand, UNICODE, 76, wide=wide))
    assert len(errand_lines(errand, UNICODE, 76, wide=False)) <= 11, "it fits 80x24"


def test_success_is_one_line_with_version_and_time() -> None:
    result = {"version": "0.3.1", "before": "0.3.0", "extras": ["llamacpp"], "already": False}
    errand = told([*m.installing(9), *m.done(result)])
    (line,) = texts(errand_lines(errand, UNICODE, 90, wide=True))
    assert line == " ✓ installed: rbee 0.3.1 after 0.3.0, with llamacpp  14.0 s"


def test_a_check_tells_its_steps() -> None:
    steps = [{"step": "the link to attic", "ms": 0.44}, {"step": "the hive's answer", "ms": 1.2}]
    errand = told([*m.done({"hive": "attic", "steps": steps})], operation="hive_check")
    assert texts(errand_lines(errand, UNICODE, 60, wide=True))[1:] == [
        "   ✓ the link to attic  0.4 ms",
        "   ✓ the hive's answer  1.2 ms",
    ]


def test_cancelled_keeps_what_was_done() -> None:
    errand = told([*m.installing(2), ("cancelled", CancelledData(reason="by the client"))])
    assert errand.stand is Stand.CANCELLED
    assert texts(errand_lines(errand, ASCII, 70, wide=True))[0] == " / installing was cancelled"


def test_an_unknown_key_is_a_question_and_no_failure_text() -> None:
    errand = told(m.unknown_key(), operation="hive_add")
    assert errand.awaits_key == m.KEY
    dialog = key_question("node-a", errand.error or HostKeyUnknown("-"))
    assert dialog._choices[0].value == "keep", "the safe choice is first"
    assert m.KEY in dialog._question
    assert "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" in dialog._question


def test_the_job_itself_tells_an_end_whose_stream_is_gone() -> None:
    errand = Errand("j-300", "hive_stop", "attic")
    errand.closed(
        m.job("hive_stop", "attic", JobState.FAILED, error_code="CONFLICT", error_message="busy"),
        5.0,
    )
    assert errand.stand is Stand.FAILED
    assert errand.error is not None
    assert errand.error.code == "CONFLICT"


EVIL = st.text(st.characters(codec="utf-8"), max_size=60)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(EVIL, EVIL, st.none() | st.floats(-1, 2)), max_size=20), EVIL)
def test_what_a_machine_says_never_steers_the_terminal(
    said: list[tuple[str, str, float | None]], last: str
) -> None:
    events: list[tuple[str, Any]] = [
        ("status", StatusData(stage=stage, message=message, progress=progress))
        for stage, message, progress in said
    ]
    details = {"suggested_action": last, "command": last, "tail": [last]}
    events.append(("error", ErrorData(code="INSTALL_FAILED", message=last, details=details)))
    errand = told(events)
    for wide in (False, True):
        for text in texts(errand_lines(errand, UNICODE, 70, wide=wide)):
            assert text.isprintable(), repr(text)


def test_steps_without_end_are_bounded() -> None:
    errand = told([m.status("checking", f"step number {n}") for n in range(500)])
    assert len(errand.steps) == MOST_STEPS


@pytest.mark.parametrize(
    ("theirs", "shown"),
    [("0.3.1", "0.3.1"), ("0.3.0", "0.3.0 ↑"), ("0.10.0", "0.10.0 ↓"), (None, "none")],
)
def test_the_version_has_an_arrow_where_it_is_another(theirs: str | None, shown: str) -> None:
    hive = m.machine("attic", "attic", version=theirs)
    assert version_cell(hive, m.VERSION, UNICODE)[0] == shown


def test_a_machine_says_what_is_wrong_and_which_key_helps() -> None:
    hives = {hive.name: hive for hive in m.machines()}
    shown = {
        name: "\n".join(
            texts(machine_lines(hive, [], None, UNICODE, 70, m.NOW, ours=m.VERSION, wide=True))
        )
        for name, hive in hives.items()
    }
    assert "rbee 0.3.0 is there, 0.3.1 here\n → i  rbee hive upgrade attic" in shown["attic"]
    assert " → i  rbee hive install shed" in shown["shed"]
    assert "no route to host; next try in 27 s" in " ".join(shown["barn"].split())
    assert "w wakes it" in shown["barn"]
    assert "seen     2h05m ago" in shown["barn"]
    assert m.KEY in shown["mule"]
    assert "this machine" in shown["laptop"]
    assert "→" not in shown["mule"]


def test_a_row_of_each_state_has_glyph_and_word() -> None:
    rows = {
        hive.name: hive_row(hive, [], None, None, UNICODE, m.NOW, ours=m.VERSION)
        for hive in m.machines()
    }
    looks = {name: (row.mark, row.cells["state"][0]) for name, row in rows.items()}
    assert looks["mule"] == (("●", "ok"), "online")
    assert looks["barn"] == (("○", "muted"), "offline")
    assert looks["shed"] == (("○", "muted"), "not installed")
    assert rows["mule"].cells["address"][0] == "192.168.1.20"
    assert rows["laptop"].cells["address"][0] == "this machine"
    under_way = hive_row(
        m.machines()[3], [], told(m.installing(1)), None, UNICODE, m.NOW, ours=m.VERSION
    )
    assert (under_way.mark, under_way.cells["state"][0]) == (("◐", "warn"), "installing")


def test_a_host_that_is_near_says_how_it_is() -> None:
    notes = [nearby_row(one, UNICODE).cells["note"][0] for one in m.AROUND.machines]
    assert notes == [
        "is mule",
        "answers",
        "no answer on port 22 within 2 s",
        "through bastion.example.net",
    ]


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("vince@attic.local:22", "attic"),
        ("10.0.0.7", "10-0-0-7"),
        ("vince@10.0.0.7:2222", "10-0-0-7"),
        ("Gaming_PC", "gaming-pc"),
        ("", ""),
        ("@", ""),
    ],
)
def test_a_name_is_proposed(target: str, name: str) -> None:
    assert proposed_name(target) == name


@pytest.mark.parametrize(
    ("name", "target", "words"),
    [
        ("attic", "", "Say where it is."),
        ("", "attic", "Give it a name."),
        ("attic", "attic", "attic is the name of another machine."),
        ("At tic", "attic", "A name has small letters"),
        ("pc", "-oProxyCommand=x", "Write it like vince@10.0.0.7"),
        ("pc", "a b", "Write it like vince@10.0.0.7"),
    ],
)
def test_what_cannot_be_added_is_said_in_the_dialog(name: str, target: str, words: str) -> None:
    with pytest.raises(ValidationFailed, match=words.replace(".", r"\.")):
        wanted(name, target, {"attic"})


@pytest.mark.parametrize(
    ("target", "argv"),
    [
        ("attic", ["ssh", "--", "attic"]),
        ("vince@10.0.0.7:2222", ["ssh", "-p", "2222", "--", "vince@10.0.0.7"]),
        ("vince@[fe80::1]:22", ["ssh", "-p", "22", "--", "vince@fe80::1"]),
        ("[fe80::1]", ["ssh", "--", "fe80::1"]),
        ("fe80::1", ["ssh", "--", "fe80::1"]),
    ],
)
def test_the_words_of_ssh(target: str, argv: list[str]) -> None:
    assert ssh_command(target) == argv
    assert HiveRecord(name="x", target=target, added_at=0.0).target == target
