"""How machines look, at 60, 80 and 160 columns and in a pipe."""

from __future__ import annotations

import io
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rbee.commands import hive_adding, hive_doctor, hive_page, hive_tables, hive_tasks
from rbee.commands.bars import Bar, Bars, drawing
from rbee.commands.checks import State
from rbee.errors import HiveNotFound, HostKeyUnknown
from rbee.protocol.hives import Absent, BackendStatus, Device, HiveInfo
from rbee.protocol.machines import CheckStep, HiveChecked, HiveRecord, LinkInfo, Nearby
from rbee.protocol.operations import HiveAdd

WIDTHS = (60, 80, 160)
GB = 10**9
OURS = "1.2.0"
NOW = 1_700_000_000.0
KEY = "SHA256:" + "k" * 43


def device(name: str, label: str, **more: object) -> Device:
    told = {
        "name": name, "kind": name.partition(":")[0], "label": label, "memory_total": 24 * GB,
        "memory_used": 4 * GB, "memory_free": 20 * GB, **more,
    }  # fmt: skip
    return Device(**told)  # pyright: ignore[reportArgumentType]


def record(name: str, **more: object) -> HiveRecord:
    told = {
        "name": name, "target": "vince@10.0.0.7", "added_at": NOW - 9e5, "version": OURS,
        "connected_at": NOW - 7200, "fingerprint": KEY, **more,
    }  # fmt: skip
    return HiveRecord(**told)  # pyright: ignore[reportArgumentType]


def up(**more: object) -> LinkInfo:
    return LinkInfo(**({"up": True, "via": "ssh -L", "latency_ms": 0.42} | more))  # pyright: ignore


def down(reason: str, action: str = "", **more: object) -> LinkInfo:
    return LinkInfo(up=False, reason=reason, action=action, **more)  # pyright: ignore


def machine(name: str = "gaming-pc", **more: object) -> HiveInfo:
    told = {
        "name": name, "kind": "ssh", "url": None, "online": True, "version": OURS,
        "hostname": "tower", "devices": [device("cpu", "16 cores"), device("cuda:0", "RTX 3090")],
        "absent_devices": [], "absent_backends": [], "last_seen_at": NOW - 1, "workers": 2,
        "backends": [BackendStatus(name="llamacpp", formats=["gguf"], capabilities=["text-gen"],
                                   devices=["cpu", "cuda:0"], max_slots=64)],
        "labels": {"region": "attic", "watts": "350"}, "state": "online", "link": up(),
        "record": record(name), "disk_free": 120 * GB, "disk_total": 500 * GB,
        "models_dir": "/home/vince/.local/share/rbee/models", **more,
    }  # fmt: skip
    return HiveInfo(**told)  # pyright: ignore[reportArgumentType]


def local() -> HiveInfo:
    return machine(
        "home", kind="local", link=None, record=None, state="", labels={}, hostname="desk"
    )


def away(name: str = "laptop", state: str = "offline", **more: object) -> HiveInfo:
    link = down("no SSH connection to vince@10.0.0.9:22 after 3 tries", "Check that it is on.")
    told = {"online": False, "state": state, "link": link, "devices": [], "backends": [],
            "workers": 0, "last_seen_at": NOW - 7500, **more}  # fmt: skip
    return machine(name, **told)


def fits(lines: list[str], width: int) -> bool:
    return all(len(line) <= width for line in lines)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_list_fits_and_names_stay_whole(width: int) -> None:
    long = machine("a-machine-with-a-name-of-some-length")
    found = [local(), machine(), away(), long]
    lines = hive_tables.listed(found, width=width, now=NOW, ours=OURS)
    assert fits(lines, width), lines
    head = " ".join(lines[: 2 if width == 60 else 1]).split()
    assert head[:2] == ["HIVE", "STATE"]
    rows = [line for line in lines[1:] if not line.startswith(" ")]
    assert [row.split()[0] for row in rows] == [hive.name for hive in found]
    assert "DEVICES" in head
    text = "\n".join(lines)
    assert "no SSH connection to vince@10.0.0.9:22" in text
    assert "→ Check that it is on." in text
    if width == 160:
        assert head == [name.upper() for name in hive_tables.COLUMNS]
        for told in ("vince@10.0.0.7", "ssh -L", "0.4 ms", "cuda:0 RTX 3090", "2 h 05 min ago"):
            assert told in text, told


def test_80_columns_have_what_is_looked_for_first() -> None:
    lines = hive_tables.listed([local(), machine(), away()], width=80, now=NOW, ours=OURS)
    head = lines[0].split()
    for name in ("hive", "state", "latency", "rbee", "devices", "seen"):
        assert name.upper() in head, head
    assert "cpu, cuda" in lines[2]


def test_a_pipe_gets_every_column_and_a_line_for_each_reason() -> None:
    lines = hive_tables.listed([machine(), away()], width=None, now=NOW, ours=OURS)
    assert len(lines) == 5
    assert lines[0].split() == [name.upper() for name in hive_tables.COLUMNS]


@pytest.mark.parametrize(
    ("hive", "reason", "action"),
    [
        (machine(), None, ""),
        (local(), None, ""),
        (machine(version="1.1.0"), "rbee 1.1.0 is there, 1.2.0 here", "rbee hive upgrade pc"),
        (away(state="other version", version="1.1.0", link=down("protocol 1", "x")),
         "rbee 1.1.0 is there, 1.2.0 here", "rbee hive upgrade pc"),
        (away(state="not installed", version=None, record=record("pc", version=None),
              link=LinkInfo(up=True)), "rbee is not installed there", "rbee hive install pc"),
        (away(state="stopped", link=LinkInfo(up=False)), "it was stopped", "rbee hive start pc"),
        (away(state="stopped", version=None, record=record("pc", version=None),
              link=LinkInfo(up=False)), "rbee is not installed there", "rbee hive install pc"),
        (away(state="offline", link=None), "it does not answer", "rbee hive refresh pc"),
        (away(state="offline", version="1.1.0", link=down("no route", "Look.", next_try_s=12.0)),
         "no route; next try in 12 s", "Look."),
        (away(state="connecting", link=LinkInfo(up=False)), "it is being reached", ""),
        (away(state="refused", link=down("other key", "ssh-keygen -R 'pc' -f 'known_hosts'")),
         "other key", "ssh-keygen -R 'pc' -f 'known_hosts'"),
        (machine(kind="http", record=None, link=None, version="1.1.0"),
         "rbee 1.1.0 is there, 1.2.0 here", "Start it again from the same installation."),
    ],
)  # fmt: skip
def test_what_is_wrong_and_what_helps(hive: HiveInfo, reason: str | None, action: str) -> None:
    named = msgspec.structs.replace(hive, name="pc")
    found = hive_tables.trouble(named, OURS)
    assert (found.reason if found else None) == reason
    assert (found.action if found else "") == action


@pytest.mark.parametrize("width", WIDTHS)
def test_a_machine_is_shown_in_sections(width: int) -> None:
    hive = machine(
        absent_devices=[Absent(name="metal", reason="this is no Mac")],
        absent_backends=[
            Absent(name="mlx", reason="the package mlx is not installed",
                   action="Install it: pip install 'rbee[mlx]'."),
        ],
        record=record("gaming-pc", path="/opt/rbee", mac="aa:bb:cc:dd:ee:ff", wake_seconds=34.0),
        link=up(losses=2),
    )  # fmt: skip
    lines = hive_page.shown(hive, width=width, now=NOW, ours=OURS)
    whole = (KEY, "→ rbee ")  # neither a fingerprint nor a command is broken
    assert fits([line for line in lines if not any(one in line for one in whole)], width), lines
    for section in ("how it is reached", "what is there", "devices", "backends"):
        assert section in lines
    text = "\n".join(lines)
    for told in (
        "vince@10.0.0.7 (calls itself tower)", "ssh -L, 0.4 ms, lost 2 times", KEY,
        "region=attic, watts=350", "120.0 GB of 500.0 GB free", "/opt/rbee", "RTX 3090",
        "no metal: this is no Mac", "no mlx: the package mlx is not installed",
        "→ rbee hive install gaming-pc", "aa:bb:cc:dd:ee:ff, up 34 s after a call",
        "/home/vince/.local/share/rbee/models",
    ):  # fmt: skip
        assert told in text, (told, text)
    install = "rbee hive install gaming-pc --extra llamacpp --extra mlx --extra nvidia"
    assert install in " ".join(text.split())  # what is there already is named, or it would go
    assert lines[-1] == 'rbee infer --hive gaming-pc --model MODEL "…"'


def test_a_machine_of_another_version_shows_both_and_no_use_of_it() -> None:
    old = machine(version="1.1.0", record=record("gaming-pc", version="1.1.0"))
    lines = hive_page.shown(old, width=80, now=NOW, ours=OURS)
    assert lines[1:3] == ["  rbee 1.1.0 is there, 1.2.0 here", "  → rbee hive upgrade gaming-pc"]
    assert "  rbee          1.1.0 (1.2.0 here)" in lines
    assert not any("rbee infer" in line for line in lines)


def test_a_backend_that_is_missing_on_this_machine_is_installed_in_its_shell() -> None:
    action = "Install it: pip install 'rbee[llamacpp]'."
    assert hive_page.extra_action(local(), action) == action
    assert hive_page.extra_action(machine(), "Look at nvidia-smi.") == "Look at nvidia-smi."


@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_near_and_the_command_that_adds_it(width: int) -> None:
    found = [
        Nearby(name="gaming-pc", source="ssh config", target="gaming-pc", added_as="gaming-pc",
               answers=True),
        Nearby(name="off", source="ssh config", target="off", answers=False, detail="no route"),
        Nearby(name="Attic.Box_1.lan", source="lan", target="10.0.0.8", answers=True,
               version=OURS, detail="through bastion"),
    ]  # fmt: skip
    lines = hive_tables.around(found, width=width)
    assert fits(lines, width)
    assert lines[-1] == "rbee hive add attic 10.0.0.8"
    assert all(any(line.startswith(one.name) for line in lines) for one in found)
    assert not any("rbee hive add" in line for line in hive_tables.around(found[:2], width=width))


def test_a_check_tells_each_step_and_both_versions() -> None:
    steps = [CheckStep(step="the link to vince@10.0.0.7:22", ms=0.42),
             CheckStep(step="the hive's answer", ms=1234.0)]  # fmt: skip
    found = HiveChecked(hive="pc", steps=steps, version=OURS, queen_version=OURS)
    lines = hive_tables.checked(found, width=80)
    assert [line.split()[0] for line in lines[1:3]] == ["0.4", "1.2"]
    assert lines[-1] == "pc works: rbee 1.2.0 there and here"
    other = msgspec.structs.replace(found, version="1.1.0")
    assert hive_tables.checked(other, width=80)[-1].endswith("rbee 1.1.0 there, 1.2.0 here")


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


def unknown_key(**more: str) -> HostKeyUnknown:
    details = {"host": "[10.0.0.7]:2222", "key_type": "ssh-ed25519", "fingerprint": KEY, **more}
    return HostKeyUnknown("the host key of vince@10.0.0.7:2222 is not known", **details)


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


@given(st.text(max_size=40), st.sampled_from(WIDTHS))
def test_nothing_that_came_from_elsewhere_steers_the_terminal(text: str, width: int) -> None:
    evil = f"a\x1b[2J\x07\r\n\u202e{text}"
    hive = away(
        hostname=evil, link=down(evil, evil), labels={"region": evil}, version=evil,
        record=record("laptop", target=evil, fingerprint=evil, version=evil),
        devices=[device("cpu", evil)], absent_devices=[Absent(name=evil, reason=evil, action=evil)],
        models_dir=evil, state=evil,
    )  # fmt: skip
    near = Nearby(name=evil, source=evil, target=evil, version=evil, detail=evil)
    checked = HiveChecked(hive="laptop", steps=[CheckStep(step=evil, ms=1.0)], version=evil)
    lines = [
        *hive_tables.listed([hive], width=width, now=NOW, ours=OURS),
        *hive_page.shown(hive, width=width, now=NOW, ours=OURS),
        *hive_tables.around([near], width=width),
        *hive_tables.checked(checked, width=width),
        *hive_adding.key_lines(unknown_key(host=evil, key_type=evil, fingerprint=evil)),
    ]
    assert all(line.isprintable() or "\t" in line for line in lines), lines
    assert not any(re.search(r"[\x00-\x08\x0a-\x1f\x7f]", line) for line in lines)


@given(st.text(max_size=300))
def test_a_name_is_offered_that_a_hive_can_have(text: str) -> None:
    name = hive_tables.add_name(text)
    assert name == "NAME" or re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name)
