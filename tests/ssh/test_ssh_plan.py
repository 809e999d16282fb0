"""Plans: which Python, which extras, which steps, and when there is no way."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from rbee.errors import InstallFailed, InsufficientDisk, ValidationFailed
from rbee.ssh.plan import Order, Plan, Run, Upload, back, choose_extras, fits, plan, removal
from rbee.ssh.probe import Facts, Gpu, Python

WHEEL = Path("rbee-1.0-py3-none-any.whl")
DEPENDENCY = Path("anyio-4.0-py3-none-any.whl")
LLAMA = "llama_cpp_python-0.3.36-py3-none-manylinux_2_28_x86_64.whl"
FACTS = Facts(
    os="Linux", arch="x86_64", kernel="6", name="Debian", libc="glibc", libc_version="2.36",
    user="u", home="/h", shell="/bin/sh", root="/h/.local/share/rbee", cores=4, memory=1 << 33,
    memory_free=1 << 32, disk_free=1 << 40, installed=[], current="", previous="", uv="",
    compiler="", pythons=[Python(path="/usr/bin/python3", version="3.12.1", venv=True)], gpus=[],
)  # fmt: skip
NO_PYTHON = replace(FACTS, pythons=[])
NO_VENV = replace(FACTS, pythons=[Python(path="/usr/bin/python3", version="3.12.1", venv=False)])


def planned(facts: Facts, *, size: int = 1000, **changes: object) -> Plan:
    order = Order(**({"version": "1.0", "wheel": WHEEL, "wheels": (DEPENDENCY,)} | changes))  # type: ignore[arg-type]
    files = [order.wheel, *order.wheels, order.uv, order.python_archive]
    given = [file for file in files if file is not None]
    return plan(order, facts, dict.fromkeys(given, "ab" * 32), dict.fromkeys(given, size))


def step(plan: Plan, title: str) -> Run | Upload:
    return next(step for step in plan.steps if step.title == title)


def run(plan: Plan, title: str) -> Run:
    found = step(plan, title)
    assert isinstance(found, Run)
    return found


def test_the_machine_s_own_python_makes_the_environment():
    made = planned(FACTS)
    place = f"{FACTS.root}/versions/{made.name}"
    assert run(made, "make the environment").argv == ("/usr/bin/python3", "-m", "venv", place)
    assert "--no-index" in run(made, "install").argv
    assert run(made, "install").argv[-1] == "rbee==1.0"
    uploads = [step.target for step in made.steps if isinstance(step, Upload)]
    folder = f"{FACTS.root}/wheels/{made.name}"
    assert uploads == [f"{folder}/{WHEEL}", f"{folder}/{DEPENDENCY}"]
    assert run(made, "verify").expect == "1.0"
    assert made.switch.argv[0] == f"{place}/bin/python"


def test_extras_and_online():
    made = planned(FACTS, extras=("llamacpp", "nvidia"), online=True)
    assert "--no-index" not in run(made, "install").argv
    assert run(made, "install").argv[-1] == "rbee[llamacpp,nvidia]==1.0"


def test_other_extras_are_another_version_beside():
    assert planned(FACTS).name != planned(FACTS, extras=("llamacpp",)).name
    assert planned(FACTS).name == planned(FACTS, online=True).name


def test_what_is_there_is_only_switched_to():
    name = planned(FACTS).name
    made = planned(replace(FACTS, installed=[name]))
    assert made.ready
    assert [step.title for step in made.steps] == ["verify"]


@pytest.mark.parametrize("facts", [NO_PYTHON, NO_VENV])
def test_a_sent_python_is_used_where_there_is_none(facts: Facts):
    made = planned(facts, python_archive=Path("cpython-3.12.tar.gz"))
    python = f"{FACTS.root}/python/cpython-3.12/bin/python3"
    assert run(made, "make the environment").argv[0] == python
    titles = [step.title for step in made.steps]
    assert titles.index("send Python") < titles.index("unpack Python")
    assert titles.index("unpack Python") < titles.index("make the environment")


def test_uv_makes_an_environment_with_a_python_that_cannot():
    made = planned(NO_VENV, uv=Path("uv"))
    argv = run(made, "make the environment").argv
    assert argv[0] == f"{FACTS.root}/bin/uv"
    assert "--offline" in argv
    assert "/usr/bin/python3" in argv
    assert step(made, "send uv").mode == 0o755  # type: ignore[union-attr]
    there = planned(replace(NO_VENV, uv="/usr/bin/uv"))
    assert run(there, "install").argv[:3] == ("/usr/bin/uv", "pip", "install")
    assert not any(step.title == "send uv" for step in there.steps)


def test_uv_fetches_a_python_only_online():
    made = planned(NO_PYTHON, uv=Path("uv"), online=True)
    argv = run(made, "make the environment").argv
    assert "3.12" in argv
    assert "--offline" not in argv
    with pytest.raises(InstallFailed, match="no Python"):
        planned(NO_PYTHON, uv=Path("uv"))


def test_no_way_is_told_with_what_to_do():
    with pytest.raises(InstallFailed, match="lacks ensurepip") as caught:
        planned(NO_VENV)
    assert "--online" in caught.value.action


def test_a_full_disk_is_told_before_anything_is_sent():
    with pytest.raises(InsufficientDisk, match="MiB are free") as caught:
        planned(replace(FACTS, disk_free=100 << 20))
    assert caught.value.details["available"] == 100 << 20
    assert planned(replace(FACTS, disk_free=None)).steps


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "1.0; rm"},
        {"version": ""},
        {"extras": ("a,b",)},
        {"wheel": Path("rbee.tar.gz")},
        {"root": "relative"},
        {"root": "/a/../b"},
        {"python": "python3"},
    ],
)
def test_an_order_that_makes_no_sense_is_refused(changes: dict[str, object]):
    with pytest.raises(ValidationFailed):
        planned(FACTS, **changes)


@pytest.mark.parametrize(
    "wheel, linux, musl, mac",
    [
        ("anyio-4.0-py3-none-any.whl", True, True, True),
        (LLAMA, True, False, False),
        ("x-1-cp312-cp312-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", True, False, False),
        ("x-1-cp312-cp312-musllinux_1_2_x86_64.whl", False, True, False),
        ("x-1-cp312-abi3-macosx_11_0_arm64.whl", False, False, True),
        ("x-1-cp312-cp312-macosx_10_9_universal2.whl", False, False, True),
        ("x-1-cp312-cp312-manylinux_2_28_aarch64.whl", False, False, False),
        ("x-1-cp312-cp312-linux_x86_64.whl", True, False, False),
        ("x-1-cp312-cp312-win_amd64.whl", False, False, False),
        ("nonsense", False, False, False),
    ],
)
def test_wheels_fit_a_platform(wheel: str, linux: bool, musl: bool, mac: bool):
    assert fits(wheel, FACTS) == linux
    assert fits(wheel, replace(FACTS, libc="musl")) == musl
    assert fits(wheel, replace(FACTS, os="Darwin", arch="arm64", libc="")) == mac


def test_extras_are_chosen_with_a_reason():
    gpu = replace(FACTS, gpus=[Gpu(kind="nvidia", label="RTX 3090")], compiler="/usr/bin/c++")
    offline = choose_extras(FACTS, [], online=False)
    assert [(extra.name, extra.chosen) for extra in offline] == [
        ("llamacpp", False),
        ("nvidia", False),
    ]
    house = [Path(LLAMA), Path("nvidia_ml_py-13.0-py3-none-any.whl")]
    chosen = choose_extras(gpu, house, online=False)
    assert [(extra.name, extra.chosen) for extra in chosen] == [
        ("llamacpp", True),
        ("nvidia", True),
    ]
    assert "RTX 3090" in chosen[1].why
    compiled = choose_extras(gpu, [], online=True)[0]
    assert compiled.chosen
    assert "/usr/bin/c++" in compiled.why
    assert not choose_extras(FACTS, [], online=True)[0].chosen
    assert not choose_extras(replace(FACTS, arch="aarch64"), house, online=False)[0].chosen


def test_back_to_what_there_is():
    two = replace(FACTS, installed=["1.0-aa", "1.1-bb"], current="1.1-bb")
    assert back(two).name == "1.0-aa"
    assert back(two).steps[0].expect == "1.0"  # type: ignore[union-attr]
    three = replace(two, installed=["0.9-cc", *two.installed])
    assert back(replace(three, previous="0.9-cc")).name == "0.9-cc"
    with pytest.raises(InstallFailed, match="no version"):
        back(three)
    with pytest.raises(InstallFailed, match="no version"):
        back(replace(two, installed=["1.1-bb"]))
    with pytest.raises(InstallFailed, match="no version 7"):
        back(two, "7")


def test_removal_stays_in_its_folder():
    words = removal(FACTS, models=False).argv
    assert all(word.startswith(f"{FACTS.root}/") for word in words[4:])
    assert not any(word.endswith("/models") for word in words)
    assert any(word.endswith("/models") for word in removal(FACTS, models=True).argv)
    for root in ("/", "/x", "relative"):
        with pytest.raises(ValidationFailed):
            removal(replace(FACTS, root=root), models=True)
