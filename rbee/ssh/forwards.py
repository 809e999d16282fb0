"""Local doors to what listens on another machine, through its session.

Owns the local end: a unix socket only this user can open, or a loopback port. What is behind the
remote end answers for itself.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from rbee.errors import Forbidden, PortTaken, ValidationFailed
from rbee.paths import make_private

if TYPE_CHECKING:
    from asyncssh import SSHListener

    from rbee.ssh.session import Session

SOCKET_PATH_BYTES = 100
"""macOS takes 103, Linux 107."""
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True)
class Unix:
    """A unix socket."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class Tcp:
    """A port; 0 at the local end: any that is free."""

    port: int
    host: str = "127.0.0.1"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Endpoint = Unix | Tcp


@asynccontextmanager
async def forwarded(
    session: Session, local: Endpoint, remote: Endpoint
) -> AsyncGenerator[Endpoint]:
    """For the length of a block: what connects to the local end talks to the remote one.

    Yields the local end as it came about. Raises PortTaken, Forbidden, ValidationFailed.
    """
    check(local, remote)
    with door(local):
        with session.errors():
            listener = await _listen(session, local, remote)
        try:
            yield Tcp(listener.get_port(), local.host) if isinstance(local, Tcp) else local
        finally:
            listener.close()
            with anyio.move_on_after(1.0, shield=True):
                await listener.wait_closed()


async def _listen(session: Session, local: Endpoint, remote: Endpoint) -> SSHListener:
    ssh = session.connection
    try:
        match local, remote:
            case Unix(), Unix():
                return await ssh.forward_local_path(local.path, remote.path)
            case Unix(), Tcp():
                return await ssh.forward_local_path_to_port(local.path, remote.host, remote.port)
            case Tcp(), Unix():
                return await ssh.forward_local_port_to_path(local.host, local.port, remote.path)
            case Tcp(), Tcp():
                return await ssh.forward_local_port(
                    local.host, local.port, remote.host, remote.port
                )
    except OSError as exc:
        raise PortTaken(
            f"{local} cannot be listened on: {os.strerror(exc.errno) if exc.errno else exc}"
        ) from exc


def check(local: Endpoint, remote: Endpoint) -> None:
    """Both ends make sense, and the local one is for this machine only. Raises ValidationFailed."""
    for end in (local, remote):
        match end:
            case Unix(path):
                good = path.startswith("/") and path.isprintable() and not set(path) & set(":'\" ")
                good = good and len(path.encode()) <= SOCKET_PATH_BYTES
            case Tcp(port, host):
                least = 0 if end is local else 1
                good = least <= port < 65536 and host.isprintable() and not host.startswith("-")
                good = good and (end is not local or host in _LOOPBACK)
        if not good:
            raise ValidationFailed(
                f"{str(end)[:120]!r} is no end of a forward",
                field="local" if end is local else "remote",
                constraint=f"absolute socket path of at most {SOCKET_PATH_BYTES} bytes, or a "
                "port, locally on loopback",
            )


@contextlib.contextmanager
def door(local: Endpoint):  # noqa: ANN201
    """The folder of a socket is this user's alone, so that nobody else can open it; no old socket
    lies there before or after. Raises Forbidden."""
    if isinstance(local, Tcp):
        yield
        return
    path = Path(local.path)
    make_private(path.parent)
    about = path.parent.stat()
    if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o077:
        raise Forbidden(
            f"others may enter {path.parent}, where a socket was to be",
            action=f"chmod 700 {path.parent}",
        )
    _remove(path)
    try:
        yield
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
