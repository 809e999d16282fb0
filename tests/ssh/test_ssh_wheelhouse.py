"""From a machine's facts to what is sent there, and from there to an rbee that runs, offline."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import replace as changed
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace
from packaging.utils import canonicalize_name

from rbee import __version__
from rbee.errors import InstallFailed, ValidationFailed
from rbee.ssh import ownwheel, pip, pytorch, tools
from rbee.ssh.install import install
from rbee.ssh.llama import Source
from rbee.ssh.packages import gather
from rbee.ssh.probe import Facts, Gpu, Python, probe
from rbee.ssh.session import Session
from rbee.ssh.target import Target, here
from rbee.ssh.wheelhouse import Wish, choose_extras, outlook, supply
from tests.support.machines import FACTS
from tests.support.sshd import Sshd
from tests.support.wheels import wheel

PI = Target("Linux", "aarch64", "glibc", (2, 36), (3, 12, 1))
KNOWN = ("llamacpp", "nvidia", "demo", "all")
OURS = Source("installed", "the queen's own runs on its CPU")
NONE = Source("none", "nobody has it")


def ignore(_text: str, _done: float | None) -> None:
    pass


def content(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {n: archive.read(n) for n in archive.namelist() if not n.endswith("/RECORD")}


def for_platform(folder: Path, name: str, version: str, tag: str, *requires: str) -> Path:
    made = wheel(folder, name, version, requires=requires)
    return made.rename(folder / f"{name}-{version}-{tag}.whl")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests here, as a queen has it."""
    return tmp_path_factory.mktemp("wheelhouse")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels is all that pip finds."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return tmp_path / "index"


# ---- our own wheel


@pytest.mark.anyio
async def test_our_own_wheel_is_the_same_from_sources_and_from_what_is_installed(
    cache: Path, tmp_path: Path
):
    dist = ownwheel.installed()
    built = await ownwheel.own_wheel(dist, cache, lambda _: None)
    stamp = built.stat().st_ino
    again = await ownwheel.own_wheel(dist, cache, lambda _: None)
    assert (again, again.stat().st_ino) == (built, stamp), "made once"
    assert f"Version: {__version__}" in str(
        content(built)[f"rbee-{__version__}.dist-info/METADATA"]
    )
    place = tmp_path / "env"
    venv.create(place, with_pip=False, symlinks=True)
    python = str(place / "bin" / "python")
    words = ["--python", python, "install", "--no-deps", "--no-index", str(built)]
    ended = await pip.run(["--quiet", *words], limit=100)
    assert ended.status == 0, ended.tail
    (site,) = place.glob("lib/python*/site-packages")
    # a path added by a .pth file has its own .pth files left alone, the editable install's too
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    program = (
        "import anyio, sys; from pathlib import Path; from rbee.ssh import ownwheel\n"
        "dist = ownwheel.installed(); assert ownwheel.source_of(dist) is None\n"
        "print(anyio.run(ownwheel.own_wheel, dist, Path(sys.argv[1]), print))\n"
        "print(*sorted(ownwheel.extras(dist)))\n"
    )
    done = await anyio.run_process([python, "-c", program, str(tmp_path / "other")], cwd="/")
    packed, extras = done.stdout.decode().splitlines()
    assert Path(packed).name == built.name
    assert content(Path(packed)) == content(built)
    assert extras.split() == sorted(ownwheel.extras(dist))
    assert set(KNOWN) <= set(extras.split())
    assert "dev" not in extras.split()


# ---- packages


@pytest.mark.anyio
async def test_what_the_queen_does_not_have_is_fetched_with_what_it_needs(
    index: Path, tmp_path: Path
):
    for_platform(index, "hexagon", "1.2", "cp312-cp312-manylinux_2_28_aarch64", "smoker>=2")
    for_platform(index, "hexagon", "1.3", "cp312-cp312-manylinux_2_99_aarch64")
    for_platform(index, "hexagon", "1.4", "cp312-cp312-manylinux_2_28_x86_64")
    for_platform(index, "smoker", "2.1", "py3-none-any", 'sting; sys_platform == "darwin"')
    told: list[str] = []
    wheels = await gather(
        ["hexagon>=1"], (), PI, here(), tmp_path / "cache", lambda text, _: told.append(text), {}
    )
    assert [path.name.split("-")[:2] for path in wheels] == [["hexagon", "1.2"], ["smoker", "2.1"]]
    assert any("hexagon>=1 for Linux aarch64" in text for text in told)
    shutil.rmtree(index)
    again = await gather(["hexagon>=1"], (), PI, here(), tmp_path / "cache", ignore, {})
    assert again == wheels, "each file once"


@pytest.mark.anyio
async def test_the_queen_s_version_is_preferred_but_another_will_do(index: Path, tmp_path: Path):
    for_platform(index, "msgspec", "0.19.1", "cp312-cp312-manylinux_2_28_aarch64")
    found = await gather(["msgspec>=0.19"], (), PI, here(), tmp_path / "cache", ignore, {})
    assert [path.name.split("-")[1] for path in found] == ["0.19.1"]


@pytest.mark.anyio
async def test_what_is_missing_is_named_with_the_ways_out(index: Path, tmp_path: Path):
    for_platform(index, "hexagon", "1.2", "cp312-cp312-manylinux_2_28_x86_64")
    for_platform(index, "smoker", "2.1", "py3-none-any")
    with pytest.raises(InstallFailed, match="no hexagon for Linux aarch64") as caught:
        await gather(["hexagon", "smoker"], (), PI, here(), tmp_path / "cache", ignore, {})
    assert caught.value.details["missing"] == ["hexagon"]
    assert "--online" in caught.value.action


@pytest.mark.anyio
async def test_an_index_that_does_not_answer_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://bee:wax@127.0.0.1:9/simple")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    told: list[str] = []
    with pytest.raises(InstallFailed, match="does not answer") as caught:
        await gather(
            ["hexagon", "smoker"], (), PI, here(), tmp_path, lambda text, _: told.append(text), {}
        )
    assert len(told) == 1, "nothing is tried one by one then"
    assert caught.value.details["missing"] == ["hexagon", "smoker"]
    assert "wax" not in str(caught.value.details)


@pytest.mark.anyio
async def test_a_python_without_pip_uses_the_one_it_has_for_new_environments(
    monkeypatch: pytest.MonkeyPatch,
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pip" else find(name)
    )
    assert pip.pip()[1] == f"{pip.bundled_pip()}/pip"
    ended = await pip.run(["--version"], limit=60)
    assert ended.status == 0
    assert ended.tail[0].startswith("pip ")


def test_no_secret_of_an_index_is_told():
    said = pip.without_secrets("ERROR: https://bee:wax@index/simple?token=abc (Caused by …)")
    assert said == "ERROR: https://index/simple?… (Caused by …)"


# ---- extras


def test_extras_are_chosen_with_a_reason():
    chosen = choose_extras(FACTS, None, KNOWN, OURS, nvidia=True)
    assert [(extra.name, extra.chosen) for extra in chosen] == [
        ("llamacpp", True), ("nvidia", False),
    ]  # fmt: skip
    gpu = replace(FACTS, gpus=[Gpu(kind="nvidia", label="RTX 3090")])
    chosen = choose_extras(gpu, None, KNOWN, NONE, nvidia=True)
    assert [(extra.chosen, extra.why) for extra in chosen] == [
        (False, "nobody has it"), (True, "it has RTX 3090"),
    ]  # fmt: skip
    assert not choose_extras(gpu, None, KNOWN, OURS, nvidia=False)[1].chosen
    wished = choose_extras(gpu, ("demo",), KNOWN, OURS, nvidia=True)
    assert [extra.name for extra in wished if extra.chosen] == ["demo"]
    assert not any(extra.chosen for extra in choose_extras(gpu, (), KNOWN, OURS, nvidia=True))
    with pytest.raises(ValidationFailed, match="no extra wings"):
        choose_extras(gpu, ("wings",), KNOWN, OURS, nvidia=True)


# ---- what an environment is made with


@pytest.mark.parametrize(
    "python, uv, online, standalone, expected",
    [
        (Python(path="/p", version="3.12.1", venv=True), "", False, False, "nothing"),
        (Python(path="/p", version="3.12.1", venv=False, bare=True), "", False, False, "pip"),
        (Python(path="/p", version="3.12.1", venv=False), "", False, False, "uv"),
        (Python(path="/p", version="3.12.1", venv=False), "/u", False, False, "nothing"),
        (None, "", False, True, "python"),
        (None, "", True, False, "uv"),
        (None, "/u", True, False, "nothing"),
    ],
)
def test_what_makes_the_environment(
    python: Python | None, uv: str, online: bool, standalone: bool, expected: str
):
    facts = replace(FACTS, pythons=[python] if python else [], uv=uv)
    assert tools.way(facts, python, online=online, standalone=standalone) == expected


def test_no_python_and_no_way_to_get_one_is_told():
    with pytest.raises(InstallFailed, match="has no Python") as caught:
        tools.way(replace(FACTS, pythons=[]), None, online=False, standalone=False)
    assert "--online" in caught.value.action


@pytest.mark.anyio
async def test_uv_is_taken_out_of_its_wheel(index: Path, tmp_path: Path):
    made = for_platform(index, "uv", "0.9.1", "py3-none-manylinux_2_17_aarch64")
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr("uv-0.9.1.data/scripts/uv", b"\x7fELF uv")
    sent = await tools.tools("uv", PI, tmp_path / "cache", lambda _: None, None)
    assert sent.uv is not None
    assert sent.uv.read_bytes() == b"\x7fELF uv"
    assert os.access(sent.uv, os.X_OK)
    shutil.rmtree(index)
    assert await tools.tools("uv", PI, tmp_path / "cache", lambda _: None, None) == sent
    other = changed(PI, arch="riscv64")
    with pytest.raises(InstallFailed, match="could not be fetched for Linux riscv64"):
        await tools.tools("uv", other, tmp_path / "cache", lambda _: None, None)


@pytest.mark.anyio
async def test_a_python_that_runs_anywhere_is_sent(tmp_path: Path):
    prefix = tmp_path / "cpython-3.12.3-linux-x86_64-gnu"
    for name in ("bin/python3.12", "lib/python3.12/os.py", "lib/python3.12/test/x.py"):
        (prefix / name).parent.mkdir(parents=True, exist_ok=True)
        (prefix / name).write_text("", "utf-8")
    (prefix / "bin" / "python3").symlink_to("python3.12")
    own = Target("Linux", "x86_64", "glibc", (2, 36), (3, 12, 3))
    assert tools.standalone(changed(own, version=(2, 40)), own, str(prefix)) == prefix
    assert tools.standalone(changed(own, version=(2, 35)), own, str(prefix)) is None
    assert tools.standalone(changed(own, arch="aarch64"), own, str(prefix)) is None
    assert tools.standalone(own, own, "/usr") is None
    sent = await tools.tools("python", own, tmp_path / "cache", lambda _: None, prefix)
    assert sent.python_archive is not None
    with tarfile.open(sent.python_archive) as archive:
        names = archive.getnames()
    assert {"python/bin/python3", "python/bin/python3.12", "python/lib/python3.12/os.py"} <= set(
        names
    )
    assert not any("test" in name for name in names)


# ---- all of it


@pytest.mark.anyio
@pytest.mark.parametrize("pipless", [pytest.param(False, marks=pytest.mark.lab), True])
async def test_into_an_empty_home_without_any_index(
    session: Session, server: Sshd, cache: Path, index: Path, pipless: bool
):
    found = await probe(session, python=str(Path(sys.base_prefix) / "bin" / "python3"))
    python = next(p for p in found.pythons if p.number[:2] == sys.version_info[:2] and p.venv)
    python = replace(python, venv=not pipless)
    facts = replace(found, pythons=[python])
    wish = Wish(extras=())
    ahead = outlook(facts, wish, cache)
    assert any("Sent as they are installed here" in note for note in ahead.notes)
    assert not any("internet" in note for note in ahead.notes), "nothing has to be fetched"
    told: list[str] = []
    order = await supply(facts, wish, cache, lambda text, _: told.append(text))
    assert order.version == __version__
    assert (order.pip is not None) == pipless
    assert not any(path.name.startswith("llama_cpp") for path in order.wheels)
    assert order.bundle is not None
    with zipfile.ZipFile(order.bundle) as archive:
        assert any(name.startswith("anyio-") for name in archive.namelist())
    done = await install(session, order, facts, lambda _: None)
    said = await session.run([done.command, "--version"])
    assert said.stdout.decode() == f"rbee {__version__}\n"
    left = {path.name for path in server.home.iterdir()}
    assert left == {".local"}, "nothing is written beside its own place"
    assert {path.name for path in (server.home / ".local/share").iterdir()} == {"rbee"}


def test_which_build_of_pytorch_it_would_be_is_said_before():
    linux = replace(FACTS, os="Linux", arch="x86_64", gpus=[])
    with_gpu = replace(linux, gpus=[Gpu(kind="nvidia", label="RTX 3060")])
    assert pytorch.notes(linux, ("llamacpp",), None) == []
    [fetched] = pytorch.notes(linux, ("torch",), None)
    assert "CUDA" in fetched
    assert "3 GB" in fetched
    assert pytorch.notes(replace(linux, os="Darwin", arch="arm64"), ("torch",), None) == []
    [unused] = pytorch.notes(with_gpu, ("all",), "2.13.0+cpu")
    assert "will not use the RTX 3060" in unused
    for facts, version in ((linux, "2.13.0+cpu"), (with_gpu, "2.13.0+cu128"), (with_gpu, "2.13")):
        assert pytorch.notes(facts, ("torch",), version) == [
            f"PyTorch is sent as the queen has it ({version})."
        ]


def test_the_outlook_says_what_happens_before_it_does(cache: Path):
    ours = here()
    like = replace(
        FACTS, arch=ours.arch, libc=ours.libc, libc_version=".".join(map(str, ours.version)),
        pythons=[replace(FACTS.pythons[0], version=".".join(map(str, ours.python)))],
    )  # fmt: skip
    notes = " ".join(outlook(like, Wish(extras=()), cache).notes)
    assert "is used" in notes
    assert "MiB" in notes
    other = replace(like, arch="riscv64", pythons=FACTS.pythons, gpus=[Gpu(kind="nvidia")])
    told = outlook(other, Wish(), cache)
    assert "takes internet here" in " ".join(told.notes)
    extras = {extra.name: extra for extra in told.extras}
    assert not extras["llamacpp"].chosen
    assert "riscv64" in extras["llamacpp"].why
    online = outlook(other, Wish(online=True), cache)
    assert "its own package index" in " ".join(online.notes)
    wished = outlook(other, Wish(extras=("torch",), online=True), cache)
    assert not any("PyTorch" in note for note in wished.notes), "PyPI has none for riscv64"
    x86 = replace(other, arch="x86_64")
    assert any(
        "PyTorch" in note
        for note in outlook(x86, Wish(extras=("torch",), online=True), cache).notes
    )
    able = replace(other, compiler="/usr/bin/c++")
    assert "5 to 20 minutes" in " ".join(outlook(able, Wish(online=True), cache).notes)
    none = replace(other, pythons=[])
    assert "uv fetches one" in " ".join(outlook(none, Wish(online=True), cache).notes)
    with pytest.raises(InstallFailed, match="has no Python"):
        outlook(none, Wish(), cache)
    with pytest.raises(ValidationFailed):
        outlook(like, Wish(extras=("wings",)), cache)


@pytest.mark.anyio
async def test_what_cannot_be_compiled_is_left_out_unless_it_was_asked_for(cache: Path):
    other = replace(FACTS, arch="riscv64")
    told: list[str] = []
    order = await supply(other, Wish(online=True), cache, lambda text, _: told.append(text))
    assert order.extras == ()
    assert (order.wheels, order.bundle) == ((), None)
    with pytest.raises(InstallFailed, match="no llama-cpp-python for Linux riscv64"):
        await supply(other, Wish(online=True, extras=("llamacpp",)), cache, ignore)
    assert canonicalize_name(order.wheel.name.split("-")[0]) == "rbee"


@pytest.mark.anyio
async def test_what_nobody_takes_goes_and_what_was_compiled_stays(cache: Path, tmp_path: Path):
    names = ("fetched/a.whl", "packed/0a/a.whl", "own/0b/a.whl", "bundles/w.zip",
             "llama/linux-x86_64-glibc-2.36-avx2/a.whl")  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    shutil.copytree(cache / "own", tmp_path / "own", dirs_exist_ok=True)
    (tmp_path / "fetched" / "new.whl").touch()
    await supply(replace(FACTS, arch="riscv64"), Wish((), online=True), tmp_path, ignore)
    there = [name for name in (*names, "fetched/new.whl") if (tmp_path / name).exists()]
    assert there == [names[4], "fetched/new.whl"]
    assert not (tmp_path / "packed" / "0a").exists()


def test_facts_of_a_machine_are_never_paths(cache: Path):
    evil: Facts = replace(FACTS, arch="../../../tmp/x")
    with pytest.raises(InstallFailed, match="is no machine"):
        outlook(evil, Wish(), cache)
