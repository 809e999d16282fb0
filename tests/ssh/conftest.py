"""A user with a key and real servers, for every test here."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rbee.ssh.hosts import Hosts
from rbee.ssh.known import KnownHosts
from rbee.ssh.session import Session, opened
from tests.support.sshd import MISSING, Sshd, SshUser


@pytest.fixture
def me(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SshUser:
    """The test process is this user."""
    if MISSING:
        pytest.skip(MISSING)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return SshUser(tmp_path / "me")


@pytest.fixture
def start_sshd(tmp_path: Path, me: SshUser) -> Iterator[Callable[..., Sshd]]:
    """Starts servers that let `me` in; `known=False` keeps them out of known_hosts."""
    running: list[Sshd] = []

    def start(*, known: bool = True, **options: Any) -> Sshd:
        options.setdefault("authorized", me.key)
        server = Sshd(tmp_path / f"sshd-{len(running)}", **options)
        running.append(server)
        if known:
            me.trust(server)
        return server

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def server(start_sshd: Callable[..., Sshd]) -> Sshd:
    """One server that is known."""
    return start_sshd()


@pytest.fixture
def known(tmp_path: Path) -> KnownHosts:
    """Host keys of rbee's own: none yet."""
    return KnownHosts(tmp_path / "data" / "known_hosts")


@pytest.fixture
async def session(server: Sshd, known: KnownHosts) -> AsyncIterator[Session]:
    """With `server`."""
    async with opened(Hosts().find(server.address), known) as session:
        yield session


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A private folder with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="rs", dir="/tmp") as folder:
        yield Path(folder)
