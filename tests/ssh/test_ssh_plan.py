"""Plans: which Python, which extras, which steps, and when there is no way."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from rbee.errors import InstallFailed, InsufficientDisk, ValidationFailed
from rbee.ssh.plan import Order, Plan, Run, Upload, back, plan, removal
from rbee.ssh.probe import Facts, Python

WHEEL = Path("rbee-1.0-py3-none-any.whl")
DEPENDENCY = Path("anyio-4.0-py3-none-any.whl")
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
    files = [order.wheel, *order.wheels, order.bundle, order.pip, order.uv, order.python_archive]
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


def test_small_wheels_are_sent_as_one_file():
    made = planned(FACTS, bundle=Path("wheels-abc.zip"))
    folder = f"{FACTS.root}/wheels/{made.name}"
    assert step(made, "send the small wheels").target == f"{folder}/wheels-abc.zip"  # type: ignore[union-attr]
    titles = [step.title for step in made.steps]
    assert titles.index("make the environment") < titles.index("unpack") < titles.index("install")
    assert run(made, "unpack").argv[-2:] == (f"{folder}/wheels-abc.zip", folder)
    narrow = replace(FACTS, disk_free=212 << 20)
    assert planned(narrow, size=1 << 20).steps
    with pytest.raises(InsufficientDisk):
        planned(narrow, bundle=Path("w.zip"), size=1 << 20)


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
    assert "--allow-existing" in argv, "the mark of what is not finished stays"
    assert "/usr/bin/python3" in argv
    assert step(made, "send uv").mode == 0o755  # type: ignore[union-attr]
    there = planned(replace(NO_VENV, uv="/usr/bin/uv"))
    assert run(there, "install").argv[:3] == ("/usr/bin/uv", "pip", "install")
    assert not any(step.title == "send uv" for step in there.steps)


def test_a_python_without_pip_is_sent_one():
    bare = replace(NO_VENV, pythons=[replace(NO_VENV.pythons[0], bare=True)])
    pip = Path("pip-24.0-py3-none-any.whl")
    made = planned(bare, pip=pip, uv=Path("uv"))
    assert "--without-pip" in run(made, "make the environment").argv
    sent = step(made, "send pip")
    assert isinstance(sent, Upload)
    assert sent.target == f"{FACTS.root}/wheels/{made.name}/{pip}"
    assert run(made, "install").argv[1] == f"{sent.target}/pip"
    with pytest.raises(InstallFailed, match="lacks ensurepip"):
        planned(bare)


def test_nothing_is_written_beside_its_own_place():
    place = f"{FACTS.root}/wheels/{planned(FACTS).name}"
    assert "--no-cache-dir" in run(planned(FACTS), "install").argv
    assert "--isolated" in run(planned(FACTS), "install").argv
    offline, online = (
        planned(NO_VENV, uv=Path("uv")),
        planned(NO_PYTHON, uv=Path("uv"), online=True),
    )
    for made in (offline, online):
        for title in ("make the environment", "install"):
            argv = run(made, title).argv
            assert argv[argv.index("--cache-dir") + 1] == f"{place}/.cache"
    assert f"UV_PYTHON_INSTALL_DIR={FACTS.root}/python" in run(online, "make the environment").argv


def test_what_was_compiled_is_better_than_newer_sources():
    llama = (Path("llama_cpp_python-0.3.36-py3-none-linux_x86_64.whl"),)
    made = planned(FACTS, online=True, wheels=llama, extras=("llamacpp",))
    assert "--prefer-binary" in run(made, "install").argv
    made = planned(NO_VENV, uv=Path("uv"), online=True, wheels=llama, extras=("llamacpp",))
    argv = run(made, "install").argv
    assert argv[argv.index("--only-binary") + 1] == "llama-cpp-python"


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
    assert removal(FACTS, models=False).argv[4:] == (FACTS.root, "")
    assert removal(FACTS, models=True).argv[4:] == (FACTS.root, "models")
    for root in ("/", "/x", "relative"):
        with pytest.raises(ValidationFailed):
            removal(replace(FACTS, root=root), models=True)
