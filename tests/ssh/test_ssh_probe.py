"""What a machine says of itself, through shells of all kinds; and answers that make no sense."""

from __future__ import annotations

import getpass
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.errors import RemoteCommandFailed
from rbee.ssh import flags
from rbee.ssh.hosts import Hosts
from rbee.ssh.known import KnownHosts
from rbee.ssh.probe import MARK, Facts, probe, read
from rbee.ssh.session import opened
from tests.support.sshd import Sshd

SCRIPT = files("rbee.ssh").joinpath("probe.sh").read_text("utf-8")
SHELLS = ["sh", "bash", "dash", "zsh", "busybox"]


async def look(server: Sshd, tmp_path: Path, root: str | None = None) -> Facts:
    async with opened(Hosts().find(server.address), KnownHosts(tmp_path / "kh")) as session:
        return await probe(session, root)


def tool(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    path.chmod(0o755)


@pytest.mark.anyio
async def test_a_machine_tells_what_it_is(server: Sshd, tmp_path: Path):
    root = server.home / ".local" / "share" / "rbee"
    for name in ("0.3.0-aaaa", "0.3.1-bbbb", "0.4.0-half"):
        tool(root / "versions" / name / "bin" / "rbee", "")
    (root / "versions" / "0.4.0-half" / ".incomplete").touch()
    (root / "current").symlink_to("versions/0.3.1-bbbb")
    tool(root / "bin" / "uv", "")
    tool(
        server.home / ".local" / "bin" / "nvidia-smi",
        "echo 'NVIDIA GeForce RTX 3090, 24576, 550.54.14'",
    )
    facts = await look(server, tmp_path)
    assert (facts.os, facts.arch) == (platform.system(), platform.machine())
    assert facts.kernel == platform.release()
    assert facts.user == getpass.getuser()
    assert facts.home == str(server.home)
    assert facts.root == str(root)
    assert facts.installed == ["0.3.0-aaaa", "0.3.1-bbbb"]
    assert facts.current == "0.3.1-bbbb"
    assert facts.uv == str(root / "bin" / "uv")
    assert facts.cores is not None
    assert facts.cores >= 1
    assert facts.memory is not None
    assert facts.memory > 1 << 26
    assert facts.disk_free is not None
    assert facts.disk_free > 1 << 20
    nvidia = facts.gpus[0]
    assert (nvidia.kind, nvidia.label) == ("nvidia", "NVIDIA GeForce RTX 3090")
    assert (nvidia.memory, nvidia.driver) == (24576 << 20, "550.54.14")
    if platform.libc_ver()[0] == "glibc":
        assert (facts.libc, facts.libc_version) == platform.libc_ver()
    assert set(facts.cpu) == flags.own()
    assert "libgcc_s.so.1" in facts.libs or facts.os != "Linux"


@pytest.mark.anyio
async def test_pythons_are_told_apart(server: Sshd, tmp_path: Path):
    local = server.home / ".local" / "bin"
    tool(local / "python3.13", "exit 1")
    link = server.home / ".pyenv" / "versions" / "x" / "bin" / "python3"
    link.parent.mkdir(parents=True)
    link.symlink_to(sys.executable)
    facts = await look(server, tmp_path)
    paths = [python.path for python in facts.pythons]
    assert len(set(paths)) == len(paths)
    assert str(link) in paths
    assert str(local / "python3.13") not in paths
    assert all(python.bare for python in facts.pythons if python.venv)
    assert {python.bits for python in facts.pythons} <= {32, 64}
    assert all(python.number >= (3, 11) for python in facts.pythons)
    assert facts.pythons == sorted(facts.pythons, key=lambda p: (p.venv, p.number), reverse=True)


@pytest.mark.anyio
async def test_a_python_that_is_named_is_looked_at_too(server: Sshd, tmp_path: Path):
    link = tmp_path / "a place" / "python"
    link.parent.mkdir()
    link.symlink_to(sys.executable)
    async with opened(Hosts().find(server.address), KnownHosts(tmp_path / "kh")) as session:
        before, facts = await probe(session), await probe(session, python=str(link))
        none = await probe(session, python="/no/python; echo {}")
    assert str(link) in {python.path for python in facts.pythons}
    assert str(link) not in {python.path for python in before.pythons}
    assert none.pythons == before.pythons


@pytest.mark.anyio
@pytest.mark.parametrize("shell", [shell for shell in SHELLS if shell != "sh"])
async def test_any_login_shell_will_do(start_sshd: Callable[..., Sshd], tmp_path: Path, shell: str):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    called = "busybox sh" if shell == "busybox" else shell
    noise = 'echo "rbee-probe {}"; echo "=== WELCOME ==="; echo noise >&2'
    server = start_sshd(options=[f'ForceCommand {noise}; {called} -c "$SSH_ORIGINAL_COMMAND"'])
    facts = await look(server, tmp_path, root=str(tmp_path / "other place"))
    assert facts.home == str(server.home)
    assert facts.root == str(tmp_path / "other place")
    assert facts.installed == []
    assert facts.current == ""


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_runs_in_every_posix_shell(tmp_path: Path, shell: str):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    command = {"busybox": ["busybox", "sh"], "zsh": ["zsh", "--emulate", "sh"]}.get(shell, [shell])
    strange = tmp_path / "ho\"me \\ with 'marks'"
    strange.mkdir()
    done = subprocess.run(
        [*command, "-s", "--", ""], input=SCRIPT, capture_output=True, text=True, timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(strange)}, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    facts = read(done.stdout.splitlines()[-1].removeprefix(MARK), "here")
    assert facts.home == str(strange)
    assert facts.shell == "" or facts.shell.startswith("/")


@pytest.mark.anyio
async def test_a_machine_without_a_shell_is_told(start_sshd: Callable[..., Sshd], tmp_path: Path):
    server = start_sshd(options=["ForceCommand echo This account is not available; exit 1"])
    with pytest.raises(RemoteCommandFailed, match="not available"):
        await look(server, tmp_path)


GOOD = {
    "os": "Linux", "arch": "x86_64", "kernel": "6", "name": "", "libc": "musl 1.2.4", "user": "u",
    "home": "/h", "shell": "/bin/ash", "root": "/h/r", "cores": 1, "memory": None,
    "memory_free": None, "disk_free": 5, "pythons": [], "gpus": ["vulkan, x.json, , "],
    "installed": [], "current": "", "previous": "", "uv": "", "compiler": "", "end": True,
}  # fmt: skip


def line(**changes: object) -> str:
    return msgspec.json.encode(GOOD | changes).decode()


def test_a_line_is_read():
    facts = read(line(), "m")
    assert (facts.libc, facts.libc_version) == ("musl", "1.2.4")
    assert facts.gpus[0].kind == "vulkan"
    assert facts.gpus[0].memory is None


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", "[]", line()[:-20], line(more=1), line(cores="8"), line(pythons=["/bin/python"]),
        line(home="relative"), line(root="/a/../b"), line(pythons=[{"path": "/p", "version": "3"}]),
    ],
)  # fmt: skip
def test_a_line_that_makes_no_sense_is_refused(text: str):
    with pytest.raises(RemoteCommandFailed):
        read(text, "m")


def test_a_python_that_is_too_old_or_nowhere_does_not_count():
    pythons = [
        {"path": "/a", "version": "3.10.9", "venv": True},
        {"path": "b", "version": "3.12.0", "venv": True},
        {"path": "/c", "version": "3.11.0", "venv": True},
        {"path": "/d", "version": "3.13.0", "venv": False},
    ]
    assert [p.path for p in read(line(pythons=pythons), "m").pythons] == ["/c", "/d"]


@given(st.text(max_size=60))
@settings(deadline=None, max_examples=200)
def test_no_answer_breaks_the_reader(text: str):
    with pytest.raises(RemoteCommandFailed):
        read(text, "m")
    assert read(line(name=text, gpus=[text]), "m").name == text
