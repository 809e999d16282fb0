"""A forward by the system's own `ssh -N -L`, which takes nothing of this process's CPU.

Owns the child process: in a process group of its own, ended with us by whatever death (a shell
beside it reads a pipe that only we hold), bound to our known_hosts, never asking anything.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.abc

from rbee.errors import ConnectionFailed, ConnectionTimeout
from rbee.paths import make_private
from rbee.ssh.attached import Kept
from rbee.ssh.forwards import Endpoint, Tcp, Unix, check, door
from rbee.ssh.groups import task_group
from rbee.ssh.hosts import Machine
from rbee.ssh.known import KnownHosts
from rbee.ssh.limits import DEFAULTS, Limits, login_slot

READY = "rbee-forward-is-up"
_ENVIRONMENT = ("HOME", "LOGNAME", "PATH", "SSH_AUTH_SOCK", "USER")
_GUARD = """
exec 3<&0
"$@" </dev/null 3<&- &
child=$!
{ read -r _ <&3; kill "$child" 2>/dev/null; } &
watch=$!
exec 3<&-
wait "$child"
status=$?
kill "$watch" 2>/dev/null
exit "$status"
"""


def installed() -> str | None:
    """Where the system's ssh is; None where there is none."""
    return shutil.which("ssh")


@dataclass
class SystemForward:
    """A forward that is up."""

    local: Endpoint
    pid: int
    """Of the shell that guards ssh, and its process group."""
    _process: anyio.abc.Process
    _stderr: Kept

    async def wait_lost(self) -> str:
        """Return when it has ended, with ssh's last words."""
        status = await self._process.wait()
        return said(self._stderr) or f"ssh ended with status {status}"


@asynccontextmanager
async def system_forwarded(
    machine: Machine,
    known: KnownHosts,
    local: Endpoint,
    remote: Endpoint,
    *,
    folder: Path,
    limits: Limits = DEFAULTS,
) -> AsyncGenerator[SystemForward]:
    """For the length of a block, like `forwards.forwarded`; a local port must be given.

    `folder`: a private one for the config file that ssh is given. Raises ConnectionFailed,
    ConnectionTimeout; what ssh said of keys and logins is in the message.
    """
    check(local, remote)
    make_private(folder)
    config = folder / f"ssh-{secrets.token_hex(6)}.conf"
    config.write_text(config_of(machine, known, limits), "utf-8")
    try:
        with door(local):
            async with AsyncExitStack() as stack:
                async with login_slot(machine.host, machine.port):
                    process, stderr = await stack.enter_async_context(
                        _running(command_of(machine, local, remote, config))
                    )
                    await _until_ready(machine, process, stderr, limits)
                yield SystemForward(local, process.pid, process, stderr)
    finally:
        config.unlink(missing_ok=True)


@asynccontextmanager
async def _running(command: list[str]) -> AsyncGenerator[tuple[anyio.abc.Process, Kept]]:
    env = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    process = await anyio.open_process(
        ["/bin/sh", "-c", _GUARD, "sh", *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=env | {"LC_ALL": "C", "SHELL": "/bin/sh"}, start_new_session=True, cwd="/",
    )  # fmt: skip
    stderr = Kept(1 << 14, tail=True)
    try:
        async with task_group() as tasks:
            tasks.start_soon(_keep, process.stderr, stderr)
            yield process, stderr
            tasks.cancel_scope.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with anyio.CancelScope(shield=True):
            await process.aclose()


async def _keep(stream: anyio.abc.ByteReceiveStream | None, kept: Kept) -> None:
    if stream is not None:
        async for data in stream:
            kept.take(data)


async def _until_ready(
    machine: Machine, process: anyio.abc.Process, stderr: Kept, limits: Limits
) -> None:
    assert process.stdout is not None
    seen = b""
    limit = limits.connect * (1 + len(machine.jumps))
    with anyio.move_on_after(limit) as waited:
        async for data in process.stdout:
            seen = (seen + data)[-4096:]
            if READY.encode() in seen:
                return
        await process.wait()
    if waited.cancelled_caught:
        raise ConnectionTimeout(f"{machine} did not let the system's ssh in within {limit:g} s")
    raise ConnectionFailed(
        f"the system's ssh made no forward to {machine}: {said(stderr) or process.returncode}",
        action=f"Try it by hand: ssh -v {machine.target}",
    )


def said(stderr: Kept) -> str:
    """ssh's last words, in one line."""
    lines = stderr.decode("utf-8", "replace").splitlines()
    return " / ".join(line.strip() for line in lines if line.strip())[-500:]


def config_of(machine: Machine, known: KnownHosts, limits: Limits = DEFAULTS) -> str:
    """An ssh config with our choices first (the first value counts), then the user's.

    A file and not options, because ssh hands `-F` on to the jumps, and only that.
    """
    files = [_worded(path) for path in known.files(machine) if not str(path).startswith("/etc/")]
    lines = [
        "BatchMode yes",
        "StrictHostKeyChecking yes",
        f"UserKnownHostsFile {' '.join(files)}",
        "UpdateHostKeys no",
        f"ConnectTimeout {max(1, round(limits.connect))}",
        f"ServerAliveInterval {max(1, round(limits.keepalive))}",
        f"ServerAliveCountMax {limits.keepalive_count}",
        "ControlMaster no",
        "ControlPath none",
        "ForwardAgent no",
        "ForwardX11 no",
        "RequestTTY no",
        "RemoteCommand none",
        "StreamLocalBindMask 0177",
    ]
    others = [path for path in (machine.config, Path("/etc/ssh/ssh_config")) if path]
    lines += [f"Include {_worded(path)}" for path in others if path.is_file()]
    return "\n".join(lines) + "\n"


def command_of(machine: Machine, local: Endpoint, remote: Endpoint, config: Path) -> list[str]:
    """The command line. What must not reach a jump is here: its output is the connection."""
    target = machine.target
    return [
        installed() or "ssh",
        "-F", str(config), "-N", "-T",
        "-o", "ExitOnForwardFailure=yes",
        "-o", "PermitLocalCommand=yes",
        "-o", f"LocalCommand=echo {READY}",
        "-L", f"{_end(local)}:{_end(remote)}",
        *(("-p", str(target.port)) if target.port else ()),
        *(("-l", target.user) if target.user else ()),
        "--", target.host,
    ]  # fmt: skip


def _end(end: Endpoint) -> str:
    match end:
        case Unix(path):
            return path
        case Tcp(port, host):
            return f"[{host}]:{port}"


def _worded(path: Path) -> str:
    return '"' + str(path).replace("%", "%%").replace('"', "") + '"'
