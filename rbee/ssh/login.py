"""One attempt to log in to a machine, through its jumps, with every host key on the way checked.

Owns the calls of asyncssh that make a connection and the meaning of what can go wrong there. Never
asks for a password and never tries again: that is `session`'s.
"""

from __future__ import annotations

import logging
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import asyncssh
from asyncssh.encryption import get_default_encryption_algs
from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs

from rbee.errors import (
    ConnectionFailed,
    ConnectionTimeout,
    HostKeyRevoked,
    HostKeyUnknown,
    LoginRefused,
    RbeeError,
)
from rbee.ssh.hosts import Machine
from rbee.ssh.known import KnownHosts, Trust
from rbee.ssh.limits import Limits, login_slot

logging.getLogger("asyncssh").setLevel(logging.WARNING)  # a line for each channel otherwise

Connection = asyncssh.SSHClientConnection
_OURS = frozenset({"password", "keyboard-interactive"})
"""Ways to log in that need somebody at a keyboard."""


@dataclass
class Refused(Exception):
    """An attempt failed. `again`: whether another one may go better."""

    error: RbeeError
    again: bool


@dataclass
class Line:
    """What one login leaves: the connection, and those it goes through, the first one first."""

    connection: Connection
    through: list[Connection]
    lost: anyio.Event
    why: list[str]
    """Filled when it is lost: the reason."""

    async def aclose(self) -> None:
        """Say goodbye and close all of it; returns soon even when nobody answers."""
        for connection in (self.connection, *reversed(self.through)):
            connection.close()
            with anyio.move_on_after(1.0, shield=True):
                await connection.wait_closed()
            connection.abort()


@dataclass
class _Door(asyncssh.SSHClient):
    """asyncssh's callbacks for one machine."""

    machine: Machine
    known: KnownHosts
    trust: Trust
    connection: Connection | None = None
    refused: RbeeError | None = None
    lost: anyio.Event = field(default_factory=anyio.Event)
    why: list[str] = field(default_factory=list[str])
    methods: list[str] = field(default_factory=list[str])
    """What the server would have accepted, as far as it was asked."""

    def connection_made(self, conn: Connection) -> None:
        self.connection = conn

    def connection_lost(self, exc: Exception | None) -> None:
        self.why.append(reason_of(exc) if exc else "the connection was closed")
        self.lost.set()

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        """Asked for every key that is not trusted."""
        self.refused = self.known.judge(self.machine, self.trust, key)
        return False

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Asked for every authority that is not trusted."""
        self.refused = self.known.judge_authority(self.machine, self.trust, key)
        return False

    def public_key_auth_requested(self) -> None:
        """Asked when all keys were refused."""
        self.methods.append("publickey")

    def password_auth_requested(self) -> None:
        """Asked where the server takes passwords; there is none to give."""
        self.methods.append("password")

    def kbdint_auth_requested(self) -> None:
        """The same, by questions and answers."""
        self.methods.append("keyboard-interactive")


async def log_in(machine: Machine, known: KnownHosts, limits: Limits) -> Line:
    """One attempt. Raises Refused."""
    async with AsyncExitStack() as stack:
        way: list[Connection] = []
        for hop in machine.jumps:
            door = await _enter(hop, known, limits, way[-1] if way else None)
            assert door.connection is not None
            stack.callback(door.connection.abort)
            way.append(door.connection)
        door = await _enter(machine, known, limits, way[-1] if way else None)
        assert door.connection is not None
        stack.pop_all()
        return Line(door.connection, way, door.lost, door.why)


async def _enter(
    machine: Machine, known: KnownHosts, limits: Limits, through: Connection | None
) -> _Door:
    try:
        trust = await anyio.to_thread.run_sync(known.look, machine)
    except RbeeError as exc:
        raise Refused(exc, again=False) from exc
    door = _Door(machine, known, trust)
    async with login_slot(machine.host, machine.port):
        try:
            await _connect(door, limits, through)
        except Exception as exc:
            refused = meaning(exc, door, limits)
            if refused is None:
                raise
            raise refused from exc
    return door


async def _connect(door: _Door, limits: Limits, through: Connection | None) -> None:
    machine, trust = door.machine, door.trust
    options: dict[str, Any] = {}
    if machine.identity_files:
        options["client_keys"] = [str(file) for file in machine.identity_files]
        if machine.identities_only:
            options["agent_identities"] = [str(_public(f)) for f in machine.identity_files]
    if not machine.host_key_algorithms:
        options["server_host_key_algs"] = _algorithms(trust)
    if not machine.ciphers:
        options["encryption_algs"] = _ciphers()
    # the revoked keys are left to the door, which can tell which key it was
    revoked = {entry.key for entry in trust.revoked}
    accepted = [key for key in trust.trusted if key not in revoked]
    authorities = [e.key for e in trust.authorities if e.key not in revoked]
    await asyncssh.connect(
        machine.target.host,
        machine.port,
        username=machine.user,
        config=[machine.config] if machine.config else None,
        tunnel=through,  # pyright: ignore[reportArgumentType]  None: no ProxyJump of asyncssh's own
        known_hosts=(accepted, authorities, list(revoked) if authorities else []),
        client_factory=lambda: door,
        ignore_encrypted=True,
        host_based_auth=False,
        agent_forwarding=False,
        x11_forwarding=False,
        connect_timeout=limits.connect,
        login_timeout=limits.connect,
        keepalive_interval=limits.keepalive,
        keepalive_count_max=limits.keepalive_count - 1,
        **options,
    )


def _public(file: Path) -> Path:
    """What an agent is asked for: the public half beside a private key that may be encrypted."""
    beside = file.with_name(f"{file.name}.pub")
    return beside if beside.is_file() else file


def _algorithms(trust: Trust) -> list[str]:
    """Host key types to ask for, those of known keys first, so that a server shows such a one.

    The others stay in the list: else a changed key of another type would end as a failure to agree
    on anything, instead of being shown.
    """
    default = get_default_public_key_algs()
    known = [alg for key in trust.trusted for alg in key.sig_algorithms if alg in default]
    first = get_default_certificate_algs() if trust.authorities else []
    return [alg.decode("ascii") for alg in dict.fromkeys([*first, *known, *default])]


@cache
def _ciphers() -> list[str]:
    """All that are usual, AES-GCM first: asyncssh has it done in one call for a packet, where
    ChaCha20-Poly1305 takes four and five times as long, whatever the size (6 against 30 µs)."""
    default = [alg.decode("ascii") for alg in get_default_encryption_algs()]
    return sorted(default, key=lambda alg: "gcm" not in alg)


def meaning(exc: Exception, door: _Door, limits: Limits) -> Refused | None:
    """What an exception of an attempt means for the user; None: it is a defect of ours."""
    machine = door.machine
    match exc:
        case asyncssh.HostKeyNotVerifiable():
            return Refused(door.refused or _unverifiable(machine, exc), again=False)
        case asyncssh.PermissionDenied():
            return Refused(_refusal(machine, door.methods), again=False)
        case (
            asyncssh.KeyEncryptionError() | asyncssh.KeyImportError() | asyncssh.ConfigParseError()
        ):
            error = LoginRefused(
                f"a key for {machine} cannot be used: {exc}",
                action="Correct IdentityFile in ~/.ssh/config, or add the key with ssh-add.",
            )
            return Refused(error, again=False)
        case TimeoutError():
            error = ConnectionTimeout(f"{machine} did not let us in within {limits.connect:g} s")
            return Refused(error, again=True)
        case asyncssh.DisconnectError() if "Too many authentication failures" in exc.reason:
            error = LoginRefused(
                f"{machine} refused after too many keys",
                action="Name the right key for it in ~/.ssh/config: IdentityFile and "
                "IdentitiesOnly yes.",
            )
            return Refused(error, again=False)
        case (
            asyncssh.KeyExchangeFailed()
            | asyncssh.ProtocolNotSupported()
            | asyncssh.ProtocolError()
        ):
            error = ConnectionFailed(f"{machine} speaks no SSH that we do: {exc.reason}")
            return Refused(error, again=False)
        case asyncssh.Error() | OSError():
            return Refused(ConnectionFailed(f"{machine}: {reason_of(exc)}"), again=True)
        case ValueError():  # what asyncssh raises for a bad value in a config
            return Refused(ConnectionFailed(f"{machine}: {exc}"), again=False)
        case _:
            return None


def reason_of(exc: Exception) -> str:
    """A few words for what broke."""
    match exc:
        case asyncssh.ConnectionLost() if "keepalive" in exc.reason:
            return "no answer any more"
        case asyncssh.ConnectionLost():
            return "connection closed by the other side"
        case asyncssh.ChannelOpenError():
            return f"cannot be reached from the machine before it ({exc.reason})"
        case asyncssh.Error():
            return exc.reason
        case OSError() if exc.errno and exc.errno > 0:
            return os.strerror(exc.errno).lower()
        case OSError() if exc.strerror:
            return exc.strerror.lower()
        case _:
            return str(exc) or type(exc).__name__


def _refusal(machine: Machine, methods: list[str]) -> LoginRefused:
    copy = f"ssh-copy-id -p {machine.port} {machine.user}@{machine.host}"
    if methods and set(methods) <= _OURS:
        return LoginRefused(
            f"{machine} takes passwords only, and rbee stores none",
            action=f"Allow keys there (PubkeyAuthentication yes), then put yours there: {copy}",
            methods=methods,
        )
    return LoginRefused(
        f"{machine} accepts none of our keys",
        action=f"Put your key there: {copy}. One with a passphrase must be in the agent: ssh-add.",
        methods=methods,
    )


def _unverifiable(machine: Machine, exc: asyncssh.HostKeyNotVerifiable) -> RbeeError:
    kind = HostKeyRevoked if "revoked" in exc.reason else HostKeyUnknown
    return kind(
        f"the host key or certificate of {machine} is not valid: {exc.reason}",
        action="Look at the @cert-authority and @revoked lines of your known_hosts.",
        host=machine.known_as,
    )
