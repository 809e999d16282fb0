"""How machines look, at 60, 80 and 160 columns and in a pipe."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.commands import hive_adding, hive_page, hive_tables
from rbee.protocol.hives import Absent, HiveInfo
from rbee.protocol.machines import CheckStep, HiveChecked, LinkInfo, Nearby
from tests.commands.hive_samples import (
    KEY,
    NOW,
    OURS,
    WIDTHS,
    away,
    device,
    down,
    fits,
    local,
    machine,
    record,
    unknown_key,
    up,
)


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
