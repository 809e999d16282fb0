"""Installing on another machine, with real environments and a real pip, offline."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

from rbee.errors import ConnectionFailed, InstallFailed
from rbee.ssh.hosts import Hosts
from rbee.ssh.install import Progress, install, roll_back, uninstall
from rbee.ssh.known import KnownHosts
from rbee.ssh.plan import Order
from rbee.ssh.probe import probe
from rbee.ssh.session import Session, opened
from tests.support.sshd import Sshd
from tests.support.wheels import rbee_wheel, wheel

pytestmark = pytest.mark.anyio
PYTHON = str(Path(sys.base_prefix) / "bin" / "python3")


@pytest.fixture
def root(server: Sshd) -> Path:
    return server.home / ".local" / "share" / "rbee"


@pytest.fixture
def wheels(tmp_path: Path) -> tuple[Path, ...]:
    folder = tmp_path / "wheelhouse"
    return (wheel(folder, "hexagon", "1.2"), wheel(folder, "smoker", "0.1"))


def ignore(_: Progress) -> None:
    pass


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def version_in_use(session: Session, root: Path) -> str:
    done = await session.run([str(root / "current" / "bin" / "rbee"), "--version"])
    return done.stdout.decode().strip()


async def test_from_nothing_to_an_upgrade_and_back_and_away(
    session: Session, root: Path, wheels: tuple[Path, ...], tmp_path: Path
):
    first = Order(
        version="9.9.1", wheel=rbee_wheel(tmp_path / "one", "9.9.1"), wheels=wheels,
        extras=("llamacpp",), python=PYTHON,
    )  # fmt: skip
    told: list[Progress] = []
    before = await probe(session)
    done = await install(session, first, before, told.append)
    assert before.installed == []
    assert (done.version, done.before, done.again) == ("9.9.1", "", False)
    assert done.command == str(root / "current" / "bin" / "rbee")
    assert await version_in_use(session, root) == "rbee 9.9.1"
    finished = [progress for progress in told if progress.finished]
    assert [progress.number for progress in finished] == [*range(1, finished[0].total + 1)]
    titles = [progress.title for progress in finished]
    assert titles[0] == "prepare"
    assert titles[-1] == "switch"
    assert titles.index("verify") < titles.index("finish")
    sent = [progress for progress in told if progress.title.startswith("send rbee-9.9.1")]
    assert sent[-2].done == sent[-2].size == first.wheel.stat().st_size
    assert names(root / "wheels") == []
    has = await session.run([f"{root}/current/bin/python", "-c", "import smoker"])
    assert has.status == 0, "the extra is there"

    facts = await probe(session)
    assert facts.installed == [done.name]
    assert facts.current == done.name
    again = await install(session, first, facts, ignore)
    assert again.again
    assert again.name == done.name

    second = Order(
        version="9.9.2", wheel=rbee_wheel(tmp_path / "two", "9.9.2"), wheels=wheels, python=PYTHON
    )
    upgraded = await install(session, second, facts, ignore)
    assert upgraded.before == done.name
    assert await version_in_use(session, root) == "rbee 9.9.2"
    assert (root / "previous").readlink() == Path("versions") / done.name

    facts = await probe(session)
    assert facts.previous == done.name
    back = await roll_back(session, facts, ignore)
    assert (back.name, back.version) == (done.name, "9.9.1")
    assert await version_in_use(session, root) == "rbee 9.9.1"

    (root / "models").mkdir()
    (root / "models" / "m.gguf").touch()
    await uninstall(session, await probe(session))
    assert names(root) == ["models"]
    await uninstall(session, await probe(session), models=True)
    assert names(root) == []


async def test_only_what_was_put_there_is_taken_away(session: Session, server: Sshd):
    """`--path` may name a folder in which other things are called as ours are."""
    home = server.home
    ours = (
        "work/versions/1.0-0123abcd/bin/rbee", "work/versions/1.1-0123abcd/.incomplete",
        "work/wheels/1.1-0123abcd/x.whl", "work/python/cpython-3.12.8-linux-x86_64-gnu/bin/python3",
        "work/bin/uv", ".local/share/rbee/models/hf/x.gguf", ".local/share/rbee/catalogue.db",
    )  # fmt: skip
    theirs = (
        "work/versions/letter-20240131/text", "work/python/mine.py", "work/models/ship/hull",
        "work/current", "work/bin/tool",
    )  # fmt: skip
    for name in (*ours, *theirs):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("x", "utf-8")
    (home / "work" / "previous").symlink_to("versions/1.0-0123abcd")
    facts = await probe(session, str(home / "work"))
    await uninstall(session, facts)
    assert [name for name in ours if (home / name).exists()] == [*ours[-2:]]
    await uninstall(session, facts, models=True)
    assert [name for name in ours if (home / name).exists()] == []
    assert [name for name in theirs if not (home / name).exists()] == []
    assert names(home / "work") == ["bin", "current", "models", "python", "versions"]


async def test_a_failed_installation_changes_nothing(
    session: Session, root: Path, wheels: tuple[Path, ...], tmp_path: Path
):
    good = Order(
        version="9.9.1", wheel=rbee_wheel(tmp_path / "one", "9.9.1"), wheels=wheels, python=PYTHON
    )
    done = await install(session, good, await probe(session), ignore)
    facts = await probe(session)

    lacking = Order(
        version="9.9.2", wheel=rbee_wheel(tmp_path / "two", "9.9.2"), wheels=(), python=PYTHON
    )
    with pytest.raises(InstallFailed, match="hexagon") as caught:
        await install(session, lacking, facts, ignore)
    assert caught.value.details["step"] == "install"
    assert "pip" in caught.value.details["command"]
    assert any("hexagon" in line for line in caught.value.details["tail"])

    lying = Order(
        version="9.9.3", wheel=rbee_wheel(tmp_path / "three", "9.9.3", says="9.9.0"),
        wheels=wheels, python=PYTHON,
    )  # fmt: skip
    with pytest.raises(InstallFailed, match=r"expected 9\.9\.3, it says rbee 9\.9\.0") as caught:
        await install(session, lying, facts, ignore)
    assert caught.value.details["step"] == "verify"

    no_python = Order(version="9.9.4", wheel=lying.wheel, wheels=wheels, python="/no/python")
    with pytest.raises(InstallFailed) as caught:
        await install(session, no_python, facts, ignore)
    assert caught.value.details["step"] == "make the environment"

    assert names(root / "versions") == [done.name]
    assert await version_in_use(session, root) == "rbee 9.9.1"


@pytest.mark.lab
async def test_a_cut_installation_is_no_installation_and_can_be_done_again(
    session: Session, server: Sshd, root: Path, wheels: tuple[Path, ...], tmp_path: Path
):
    order = Order(
        version="9.9.1", wheel=rbee_wheel(tmp_path / "one", "9.9.1"), wheels=wheels, python=PYTHON
    )

    def cut(progress: Progress) -> None:
        if progress.title == "make the environment" and progress.finished:
            server.cut()

    with pytest.raises(ConnectionFailed, match="is lost"):
        await install(session, order, await probe(session), cut)
    assert not (root / "current").exists()
    async with opened(Hosts().find(server.address), KnownHosts(tmp_path / "kh")) as fresh:
        facts = await probe(fresh)
        assert facts.installed == []
        done = await install(fresh, order, facts, ignore)
        assert await version_in_use(fresh, root) == "rbee 9.9.1"
        assert (await probe(fresh)).installed == [done.name]


async def test_a_cancelled_installation_is_cleaned_up(
    session: Session, root: Path, wheels: tuple[Path, ...], tmp_path: Path
):
    order = Order(
        version="9.9.1", wheel=rbee_wheel(tmp_path / "one", "9.9.1"), wheels=wheels, python=PYTHON
    )
    facts = await probe(session)
    with anyio.CancelScope() as scope:

        def stop(progress: Progress) -> None:
            if progress.title == "install":
                scope.cancel()

        await install(session, order, facts, stop)
    assert scope.cancelled_caught
    assert names(root / "versions") == []
    assert not (root / "current").exists()


@pytest.mark.lab
async def test_a_machine_without_python_gets_one(
    session: Session, root: Path, wheels: tuple[Path, ...], tmp_path: Path
):
    program = tmp_path / "python3"
    program.write_text(f'#!/bin/sh\nexec {PYTHON} "$@"\n', "utf-8")
    program.chmod(0o755)
    archive = tmp_path / "cpython.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(program, "python/bin/python3")
    order = Order(
        version="9.9.1", wheel=rbee_wheel(tmp_path / "one", "9.9.1"), wheels=wheels,
        python_archive=archive,
    )  # fmt: skip
    facts = replace(await probe(session), pythons=[], uv="")
    await install(session, order, facts, ignore)
    assert await version_in_use(session, root) == "rbee 9.9.1"
    assert (root / "python" / "cpython" / "bin" / "python3").exists()


@pytest.mark.lab
async def test_another_place_may_be_chosen(
    session: Session, wheels: tuple[Path, ...], tmp_path: Path
):
    place = tmp_path / "other place"
    order = Order(
        version="9.9.1", wheel=rbee_wheel(tmp_path / "one", "9.9.1"), wheels=wheels, python=PYTHON,
        root=str(place),
    )  # fmt: skip
    done = await install(session, order, await probe(session, str(place)), ignore)
    assert done.root == str(place)
    assert await version_in_use(session, place) == "rbee 9.9.1"
