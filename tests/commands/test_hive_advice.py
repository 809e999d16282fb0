"""What commands say of machines that need something: what is missing, asked and done."""

from __future__ import annotations

import io
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rbee.commands import hive_adding, hive_doctor, hive_tables, hive_tasks
from rbee.commands.bars import Bar, Bars, drawing
from rbee.commands.checks import State
from rbee.errors import HiveNotFound
from rbee.protocol.hives import Absent, HiveInfo
from rbee.protocol.machines import LinkInfo
from rbee.protocol.operations import HiveAdd
from tests.commands.hive_samples import GB, KEY, OURS, away, fits, machine, record, unknown_key


def states(hive: HiveInfo) -> dict[str, State]:
    return {check.name: check.state for check in hive_doctor.examined(hive, OURS)}


def test_the_doctor_of_a_machine_that_is_well_finds_nothing() -> None:
    found = states(machine())
    assert set(found.values()) == {State.OK}
    assert set(found) == {"state", "link", "version", "cpu", "cuda:0", "llamacpp", "disk"}


def test_the_doctor_says_what_is_missing_and_the_command_that_changes_it() -> None:
    hive = machine(
        absent_devices=[
            Absent(name="cuda", reason="no driver"),
            Absent(name="vulkan", reason="no loader", action="Install libvulkan1."),
        ],
        backends=[],
        absent_backends=[
            Absent(name="llamacpp", reason="the package llama-cpp-python is not installed",
                   action="Install it: pip install 'rbee[llamacpp]'."),
        ],
        disk_free=GB,
    )  # fmt: skip
    found = {check.name: check for check in hive_doctor.examined(hive, OURS)}
    assert found["cuda"].state is State.OK
    assert found["vulkan"].state is State.WARN
    assert found["llamacpp"].action == "rbee hive install gaming-pc --extra llamacpp --extra nvidia"
    assert found["backends"].state is State.FAIL
    assert found["backends"].action == "rbee hive install gaming-pc --extra llamacpp --extra nvidia"
    assert found["disk"].state is State.WARN
    assert "/home/vince/.local/share/rbee/models" in found["disk"].message


@pytest.mark.parametrize(
    ("hive", "state"),
    [
        (away(), State.FAIL),
        (away(state="refused"), State.FAIL),
        (away(state="not installed", link=LinkInfo(up=True)), State.FAIL),
        (away(state="stopped", link=LinkInfo(up=False)), State.WARN),
        (away(state="connecting"), State.WARN),
    ],
)
def test_the_doctor_of_a_machine_that_is_not_up(hive: HiveInfo, state: State) -> None:
    first = next(hive_doctor.examined(hive, OURS))
    assert (first.name, first.state) == ("state", state)
    assert bool(first.action) is (
        hive.state != "connecting" or bool(hive.link and hive.link.action)
    )
    assert "backends" not in states(hive)


def test_the_doctor_names_both_versions_and_the_upgrade() -> None:
    old = machine(version="1.1.0")
    found = {check.name: check for check in hive_doctor.examined(old, OURS)}
    assert found["version"].state is State.FAIL
    assert "1.1.0 there, 1.2.0 here" in found["version"].message
    assert found["version"].action == "rbee hive upgrade gaming-pc"


def test_what_comes_after_an_addition() -> None:
    for hive, there, then in (
        (away(state="not installed", version=None, record=record("laptop", version=None)),
         "rbee is not installed there yet", "rbee hive install laptop"),
        (machine(version="1.1.0"), "rbee 1.1.0 is there, 1.2.0 here",
         "rbee hive upgrade gaming-pc"),
        (machine(), "rbee 1.2.0 is there and runs",
         'rbee infer --hive gaming-pc --model MODEL "…"'),
        (away(state="connecting"), "rbee 1.2.0 is there", "rbee hive start laptop"),
    ):  # fmt: skip
        assert hive_adding.next_step(hive, OURS) == (there, then)


def test_what_is_installed_is_told_with_what_was_before() -> None:
    told: dict[str, object] = {"hive": msgspec.to_builtins(machine()), "version": "1.2.0"}
    assert hive_tasks.installed(told) == "rbee 1.2.0 is on gaming-pc"
    told |= {"extras": ["llamacpp", "nvidia"], "before": "1.1.0"}
    expected = "rbee 1.2.0 is on gaming-pc after 1.1.0, with llamacpp and nvidia"
    assert hive_tasks.installed(told) == expected
    told |= {"already": True, "before": "1.2.0", "extras": []}
    assert hive_tasks.installed(told) == "rbee 1.2.0 is on gaming-pc already"


def test_an_unknown_key_is_shown_with_the_way_to_compare_it() -> None:
    text = "\n".join(hive_adding.key_lines(unknown_key()))
    for told in ("[10.0.0.7]:2222", "ssh-ed25519", KEY,
                 "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"):  # fmt: skip
        assert told in text
    ecdsa = hive_adding.key_lines(unknown_key(key_type="ecdsa-sha2-nistp256"))
    assert "ssh_host_ecdsa_key.pub" in "\n".join(ecdsa)


def test_the_command_that_accepts_a_key_is_exact() -> None:
    wanted = HiveAdd(
        name="pc", target="vince@10.0.0.7:2222", path="/opt/my rbee", labels={"tier": "fast one"},
        forward="ssh",
    )  # fmt: skip
    error = hive_adding.unaccepted(unknown_key(), wanted)
    assert (
        "rbee hive add pc vince@10.0.0.7:2222 --path '/opt/my rbee' --forward ssh"
        f" --label 'tier=fast one' --fingerprint {KEY}"
    ) in error.action
    assert "--accept-new" in error.action
    assert error.exit_code == 255
    assert error.details["fingerprint"] == KEY
    other = msgspec.structs.replace(wanted, accept="SHA256:other")
    assert "you accept SHA256:other" in hive_adding.unaccepted(unknown_key(), other).message


def test_a_hive_nobody_added_names_the_command_that_adds_it() -> None:
    error = HiveNotFound.of("attic", ["home", "gaming-pc"])
    assert "rbee hive add attic USER@HOST" in error.action
    assert "home, gaming-pc" in error.message
    assert error.exit_code == 1


STEP = f"step 3 of 9: send {'uvloop-0.23.0-' * 5}any.whl (4 of 16 MiB)"


@pytest.mark.parametrize("width", [64, 80, 160])
def test_the_steps_of_an_installation_have_a_bar_with_all_its_figures(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    bars = [Bar.of_step(STEP, 0.25), Bar.of_step("step 9 of 9: switch", 1.0)]
    with console.capture() as captured:
        console.print(drawing(bars))
    lines = captured.get().splitlines()
    assert fits(lines, width)
    assert lines[0].startswith("rbee: step 3 of 9: send uvloop")
    assert lines[1].rstrip().endswith(" 25% 4 of 16 MiB")
    assert lines[2].rstrip() == "rbee: step 9 of 9: switch"
    assert lines[3].rstrip().endswith("100%")


def test_steps_are_lines_in_a_file_and_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    file, terminal = io.StringIO(), Terminal()
    for out in (file, terminal):
        bars = Bars(out=out)
        for step in range(1, 4):
            bars.progress(f"step {step} of 3: a", step / 3, stage="installing")
        bars.clear()
    assert [line[:12] for line in file.getvalue().splitlines()] == [
        f"rbee: step {step}" for step in (1, 2, 3)
    ]
    assert "100%" in terminal.getvalue()
    assert "\x1b[?25h" in terminal.getvalue()


class Terminal(io.StringIO):
    """Collects what is written, as a terminal."""

    def isatty(self) -> bool:
        return True


@given(st.text(max_size=300))
def test_a_name_is_offered_that_a_hive_can_have(text: str) -> None:
    name = hive_tables.add_name(text)
    assert name == "NAME" or re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name)
