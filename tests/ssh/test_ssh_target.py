"""For what packages are gathered, which are needed there, and which of the queen's own run."""

from __future__ import annotations

from dataclasses import replace as changed

import pytest
from msgspec.structs import replace
from packaging.tags import parse_tag, sys_tags
from packaging.utils import canonicalize_name

from rbee.errors import InstallFailed
from rbee.ssh.needed import walk
from rbee.ssh.packages import divide
from rbee.ssh.probe import Python
from rbee.ssh.target import Target, choose_python, here, target
from tests.support.machines import FACTS

DEBIAN = Target("Linux", "x86_64", "glibc", (2, 36), (3, 12, 1))
ALPINE = changed(DEBIAN, libc="musl", version=(1, 2))
PI = changed(DEBIAN, arch="aarch64")
MAC = Target("Darwin", "arm64", "", (14, 5), (3, 12, 1))
OLD = changed(DEBIAN, version=(2, 17))


def test_our_own_tags_are_those_of_this_python():
    assert set(sys_tags()) == here().tags


@pytest.mark.parametrize(
    "tag, runs_on",
    [
        ("py3-none-any", {"debian", "alpine", "pi", "mac", "old"}),
        ("cp312-cp312-manylinux2014_x86_64.manylinux_2_17_x86_64", {"debian", "old"}),
        ("cp312-cp312-manylinux_2_28_x86_64", {"debian"}),
        ("cp39-abi3-manylinux_2_28_aarch64", {"pi"}),
        ("cp312-cp312-musllinux_1_2_x86_64", {"alpine"}),
        ("cp312-abi3-macosx_11_0_arm64", {"mac"}),
        ("cp312-cp312-macosx_10_9_universal2", {"mac"}),
        ("cp311-cp311-manylinux_2_17_x86_64", set[str]()),
        ("cp312-cp312-win_amd64", set[str]()),
        ("cp312-cp312-linux_x86_64", {"debian"}),
    ],
)
def test_what_runs_where(tag: str, runs_on: set[str]):
    targets = {"debian": DEBIAN, "alpine": ALPINE, "pi": PI, "mac": MAC, "old": OLD}
    assert {n for n, t in targets.items() if t.runs(parse_tag(tag), DEBIAN)} == runs_on


def test_a_machine_s_facts_make_a_target():
    made = target(FACTS, FACTS.pythons[0])
    assert made == changed(DEBIAN, kernel="6")
    assert str(made) == "Linux x86_64 with glibc 2.36 and Python 3.12"
    small = replace(FACTS, arch="aarch64", pythons=[replace(FACTS.pythons[0], bits=32)])
    assert target(small, small.pythons[0]).arch == "armv7l"
    mac = replace(FACTS, os="Darwin", arch="arm64", libc="", libc_version="", name="macOS 14.5")
    assert target(mac, mac.pythons[0]) == changed(MAC, kernel="6")
    assert str(target(mac, None)).startswith("macOS 14.5 arm64 with Python 3.12")
    assert target(mac, mac.pythons[0]).environment["sys_platform"] == "darwin"


@pytest.mark.parametrize(
    "change",
    [{"arch": "../../x"}, {"os": "Linux; rm"}, {"arch": ""},
     {"pythons": [Python(path="/p", version="3.999999", venv=True)]}],
)  # fmt: skip
def test_a_machine_that_tells_nonsense_is_refused(change: dict[str, object]):
    facts = replace(FACTS, **change)
    with pytest.raises(InstallFailed, match="is no machine"):
        target(facts, facts.pythons[0])


def test_a_c_library_without_end_is_bounded():
    assert len(target(replace(FACTS, libc_version="2.999999999"), None).platforms) < 120


def test_the_python_like_the_queen_s_is_preferred():
    new = Python(path="/b", version="3.13.0", venv=True)
    like = Python(path="/a", version="3.11.9", venv=True)
    bare = Python(path="/c", version="3.14.0", venv=False, bare=True)
    facts = replace(FACTS, pythons=[new, like, bare])
    assert choose_python(facts, None, (3, 11)) == like
    assert choose_python(facts, None, None) == new
    assert choose_python(facts, None, (3, 14)) == new, "one that can make environments by itself"
    assert choose_python(replace(facts, pythons=[bare]), None, (3, 11)) == bare
    assert choose_python(facts, "/c", (3, 11)) == bare
    assert choose_python(replace(facts, pythons=[]), None, (3, 11)) is None
    with pytest.raises(InstallFailed, match=r"/d is no Python .*/b \(3.13.0\)"):
        choose_python(facts, "/d", (3, 11))


def test_the_walk_sees_the_other_machine_s_markers():
    known = {
        "wax": ['honey; sys_platform == "darwin"', 'smoker>=2; python_version < "3.12"'],
        "honey": [], "comb": ['wax>1; extra == "big"'], "queenless": [],
    }  # fmt: skip
    requires = ["wax>=1", "comb[big]", 'sting; extra == "all"', "rbee[more]; extra == 'all'",
                "queenless; extra == 'more'"]  # fmt: skip

    def names(goal: Target, *extras: str) -> list[str]:
        return [str(name) for name in walk(requires, extras, goal.environment, known.get)]

    assert names(DEBIAN) == ["comb", "wax"]
    assert names(MAC) == ["comb", "honey", "wax"]
    assert names(changed(DEBIAN, python=(3, 11))) == ["comb", "smoker", "wax"]
    assert names(DEBIAN, "all") == ["comb", "queenless", "sting", "wax"]
    found = walk(requires, ["all"], DEBIAN.environment, known.get)
    assert not found[canonicalize_name("sting")].known
    assert "1" not in found[canonicalize_name("wax")].versions, "every wish counts"


def test_requirements_that_make_no_sense_are_told():
    with pytest.raises(InstallFailed, match="cannot be read"):
        walk(["wax >= = 1"], (), DEBIAN.environment, lambda _: None)


def test_the_queen_s_own_packages_go_to_machines_like_hers():
    ours = here()
    requires = ["anyio>=4", "msgspec", "nobody-has-this>=3; sys_platform == 'nowhere'"]
    divided = divide(requires, (), ours, ours, {})
    assert {"anyio", "msgspec", "idna"} <= set(divided.packed)
    assert divided.fetched == {}
    other = changed(ours, python=(ours.python[0], ours.python[1] + 1, 0))
    divided = divide(requires, (), other, ours, {})
    assert "anyio" in divided.packed, "pure Python runs on any"
    msgspec = divided.fetched[canonicalize_name("msgspec")]
    assert msgspec[0].startswith("msgspec=="), "the version that the queen runs comes first"
    assert msgspec[1:] == ("msgspec",)
    divided = divide(["nobody-has-this>=3"], (), ours, ours, {})
    assert list(divided.fetched.values()) == [("nobody-has-this>=3",)]
    assert divide(requires, (), ours, ours, {"msgspec": None}).fetched == {}
    assert "msgspec" not in divide(requires, (), ours, ours, {"msgspec": None}).packed
