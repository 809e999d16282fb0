"""A shell on a machine: the screens step aside for the user's own ssh, and come back.

Owns the command line of ssh and the time in which the terminal is not ours. Never a shell string.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio.to_thread
from textual.app import SuspendNotSupported

from rbee.errors import RbeeError, Unavailable

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp

_WITH_PORT = re.compile(
    r"(?P<user>[^@]*@)?(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:@]+)):(?P<port>\d{1,5})"
)
_BRACKETS = re.compile(r"(?P<user>[^@]*@)?\[(?P<v6>[^\]]+)\]")


def ssh_command(target: str) -> list[str]:
    """The words of ssh for `user@host[:port]` or a Host of the ssh config.

    `--` keeps a target from being read as an option.
    """
    if found := _WITH_PORT.fullmatch(target):
        where = f"{found['user'] or ''}{found['v6'] or found['host']}"
        return ["ssh", "-p", found["port"], "--", where]
    if found := _BRACKETS.fullmatch(target):
        return ["ssh", "--", f"{found['user'] or ''}{found['v6']}"]
    return ["ssh", "--", target]


async def open_shell(app: RbeeApp, target: str) -> None:
    """Until the shell there is left. Raises Unavailable where there is no terminal to give away, or
    no ssh."""
    argv = ssh_command(target)
    failed: RbeeError | None = None
    try:
        # Nothing may be raised in here, or the terminal would not be taken back.
        with app.batch_update(), app.suspend(), _interrupts_are_the_shells():
            failed = await _run(argv)
    except SuspendNotSupported as exc:
        raise Unavailable(
            "this terminal cannot be handed to another program",
            action=f"In a terminal of its own: {shlex.join(argv)}",
        ) from exc
    finally:
        app.refresh(layout=True)
    if failed is not None:
        raise failed


async def _run(argv: Sequence[str]) -> RbeeError | None:
    # In a thread: the queen is followed, and a queen of ours kept alive, meanwhile.
    try:
        done = await anyio.to_thread.run_sync(lambda: subprocess.run(list(argv), check=False))
    except OSError as exc:
        return Unavailable(
            f"ssh could not be started: {exc.strerror}", action="Install the OpenSSH client."
        )
    if done.returncode == 255:  # ssh(1): 255 is its own error, all others are the shell's
        return Unavailable(
            f"{shlex.join(argv)} ended with an error", action="Run it in a terminal to see why."
        )
    return None


@contextmanager
def _interrupts_are_the_shells() -> Generator[None]:
    """Ctrl+C at a question of ssh reaches us, too, and is not for us. A handler, because a signal
    that is ignored would stay so in ssh."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
