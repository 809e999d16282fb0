"""A user with a home of their own, and hosts with networks of their own, for every test here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.netns import MISSING, Host, hosts
from tests.support.sshd import MISSING as NO_SSHD
from tests.support.sshd import Sshd, SshUser


@pytest.fixture
def me(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SshUser:
    """The test process is this user; no `tailscale` of the machine is found."""
    if NO_SSHD:
        pytest.skip(NO_SSHD)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:/usr/bin:/bin:/usr/sbin:/sbin")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return SshUser(tmp_path / "me")


@pytest.fixture
def server(tmp_path: Path, me: SshUser) -> Iterator[Sshd]:
    """A server on loopback that lets `me` in and is known."""
    running = Sshd(tmp_path / "sshd", authorized=me.key)
    me.trust(running)
    yield running
    running.stop()


@pytest.fixture
def far(tmp_path: Path, me: SshUser) -> Iterator[Host]:
    """Another host, with an sshd that lets `me` in and is known."""
    if MISSING:
        pytest.skip(MISSING)
    with hosts() as (host,):
        me.trust(host.serve(tmp_path / "far", authorized=me.key))
        yield host


@pytest.fixture
def stand_in(tmp_path: Path, me: SshUser) -> Callable[[str, str], None]:
    """Puts a program of this name, which is the shell script given, on the PATH."""

    def put(name: str, script: str) -> None:
        program = tmp_path / "programs" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        program.chmod(0o755)

    return put
