"""The screens step aside for another program, and come back: a shell on a machine, an editor.

Owns the command lines of both and the time in which the terminal is not ours. Never a shell string.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread
from textual.app import SuspendNotSupported

from rbee.errors import RbeeError, Unavailable

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp

_WITH_PORT = re.compile(
    r"(?P<user>[^@]*@)?(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:@]+)):(?P<port>\d{1,5})"
)
_TAKE_LINES = frozenset(
    {"vi", "vim", "nvim", "nano", "emacs", "emacsclient", "micro", "kak", "joe"}
)
"""Editors that take `+4` for a line."""
Judge = Callable[[Sequence[str], int | OSError], RbeeError | None]
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
    await _hand_over(app, ssh_command(target), _shell_failed)


def editor_command(path: Path, line: int | None, env: Mapping[str, str] = os.environ) -> list[str]:
    """The words of the user's editor for a file. Raises Unavailable where none is named."""
    told = env.get("VISUAL") or env.get("EDITOR") or ""
    try:
        words = shlex.split(told)
    except ValueError as exc:
        raise Unavailable(
            f"VISUAL or EDITOR cannot be read: {told!r}: {exc}", action=f"The file is {path}."
        ) from exc
    if not words:
        raise Unavailable(
            "no editor is named by VISUAL or EDITOR", action=f"The file is {path}.", path=str(path)
        )
    at = [f"+{line}"] if line is not None and Path(words[0]).name in _TAKE_LINES else []
    return [*words, *at, str(path)]


async def open_editor(app: RbeeApp, path: Path, line: int | None = None) -> None:
    """Until the editor is left. Raises Unavailable where there is none, or no terminal for it."""
    await _hand_over(app, editor_command(path, line), _editor_failed)


async def _hand_over(app: RbeeApp, argv: Sequence[str], judge: Judge) -> None:
    failed: RbeeError | None = None
    try:
        # Nothing may be raised in here, or the terminal would not be taken back.
        with app.batch_update(), app.suspend(), _interrupts_are_the_shells():
            failed = await _run(argv, judge)
    except SuspendNotSupported as exc:
        raise Unavailable(
            "this terminal cannot be handed to another program",
            action=f"In a terminal of its own: {shlex.join(argv)}",
        ) from exc
    finally:
        app.refresh(layout=True)
    if failed is not None:
        raise failed


async def _run(argv: Sequence[str], judge: Judge) -> RbeeError | None:
    # In a thread: the queen is followed, and a queen of ours kept alive, meanwhile.
    try:
        done = await anyio.to_thread.run_sync(lambda: subprocess.run(list(argv), check=False))
    except OSError as exc:
        return judge(argv, exc)
    return judge(argv, done.returncode)


def _shell_failed(argv: Sequence[str], how: int | OSError) -> RbeeError | None:
    if isinstance(how, OSError):
        return Unavailable(
            f"ssh could not be started: {how.strerror}", action="Install the OpenSSH client."
        )
    if how == 255:  # ssh(1): 255 is its own error, all others are the shell's
        return Unavailable(
            f"{shlex.join(argv)} ended with an error", action="Run it in a terminal to see why."
        )
    return None


def _editor_failed(argv: Sequence[str], how: int | OSError) -> RbeeError | None:
    if isinstance(how, OSError):
        return Unavailable(
            f"{argv[0]} could not be started: {how.strerror}",
            action=f"Set VISUAL or EDITOR to an editor. The file is {argv[-1]}.",
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
