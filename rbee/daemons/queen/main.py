"""The queen as a process (`python -m rbee.daemons.queen.main`): lock, address, signals, log.

Exactly one queen runs per state folder: she holds a lock on a file for as long as she lives, and
says in the state file where she is. The lock goes with the process, whatever its death.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from rbee import __version__
from rbee.access.ours import born_of
from rbee.clock import SystemClock
from rbee.daemons.base import first_error, url_of
from rbee.daemons.logs import handler_of
from rbee.daemons.queen.doors import Doors, opened
from rbee.daemons.state import (
    DETACH,
    QueenState,
    locked,
    read_state,
    remove_state,
    write_state,
)
from rbee.errors import QueenRunning, RbeeError
from rbee.paths import Paths
from rbee.settings import Settings, load

if TYPE_CHECKING:
    from rbee.daemons.queen.queen import Queen

log = logging.getLogger("rbee.queen")
COLLECT = (5_000, 20, 200)
"""gc's thresholds: nothing on a request's way makes cycles, so there is little to look for."""


FILES = 65536
"""That she may have open, where the system lets her."""
Reload = Callable[[], Settings]


def serve(
    settings: Settings,
    paths: Paths,
    *,
    reload: Reload,
    lifetime: str = "persistent",
    lifeline: bool = False,
) -> int:
    """Run a queen in this process until she is told to stop; returns the exit code.

    `reload` reads the settings again, for SIGHUP. `lifeline`: stdin is the owner's pipe; its end
    takes the queen down. Raises QueenRunning, PortTaken and SettingsError before anything started.
    """
    setup_logging(settings)
    _open_many()
    paths.ensure()
    with locked(paths.lock_file) as mine:
        if not mine:
            raise _already(paths)
        with opened(settings, paths, now=SystemClock().utc()) as doors:
            try:
                return anyio.run(
                    _main, settings, paths, doors, reload, lifetime, lifeline,
                    backend_options={"use_uvloop": _has_uvloop()},
                )  # fmt: skip
            except BaseExceptionGroup as group:
                raise first_error(group) from group


async def _main(
    settings: Settings,
    paths: Paths,
    doors: Doors,
    reload: Reload,
    lifetime: str,
    lifeline: bool,
) -> int:
    from rbee.daemons.queen.queen import Queen  # heavy: starlette, uvicorn

    # A queen that was killed left her state file: hives of their own that live on know her token.
    before = read_state(paths)
    queen = Queen(
        settings=settings,
        paths=paths,
        clock=SystemClock(),
        doors=doors,
        lifetime=lifetime,
        token=before.token if before is not None else None,
    )
    state = QueenState(
        url=url_of(doors.inner),
        pid=os.getpid(),
        version=__version__,
        lifetime=lifetime,
        started_at=queen.started_at,
        token=queen.token,
        born=born_of(os.getpid()),
    )
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_signals, queen, reload)
            if lifeline:
                tasks.start_soon(_lifeline, queen)
            tasks.start_soon(_until_done, queen, tasks, state, paths)
    finally:
        remove_state(paths, os.getpid())
    return 0


async def _until_done(
    queen: Queen, tasks: anyio.abc.TaskGroup, state: QueenState, paths: Paths
) -> None:
    async with anyio.create_task_group() as inner:
        await inner.start(queen.run)
        write_state(paths, state)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT)
        _notify_ready()
    tasks.cancel_scope.cancel()


async def _signals(queen: Queen, reload: Reload) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        async for number in received:
            if number == signal.SIGHUP:
                try:
                    queen.reload(reload())
                except RbeeError as exc:
                    queen.effects.narrate("queen", f"settings not changed: {exc.message}", "error")
                continue
            queen.ask_to_stop(f"signal {signal.Signals(number).name}")


async def _lifeline(queen: Queen) -> None:
    """Follow the owner's pipe: its end is ours, unless it said otherwise first."""
    heard = b""
    fd = sys.stdin.fileno()
    os.set_blocking(fd, False)
    while True:
        await anyio.wait_readable(fd)
        try:
            data = os.read(fd, 256)
        except BlockingIOError:
            continue
        if not data:
            break
        heard = (heard + data)[-64:]
    if heard.endswith(DETACH):
        queen.lifetime = "persistent"
        queen.effects.narrate("queen", "left running by whoever started her")
        return
    queen.ask_to_stop("whoever started her is gone")


def _open_many() -> None:
    """Each connection is a file: callers that hold many must not keep her from opening her own."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _already(paths: Paths) -> QueenRunning:
    state = read_state(paths)
    if state is None:
        return QueenRunning("a queen is just starting for this user")
    return QueenRunning(
        f"a queen already runs at {state.url} (pid {state.pid}, version {state.version})",
        url=state.url,
        pid=state.pid,
    )


def setup_logging(settings: Settings) -> None:
    """Log to stderr, as text for people or one JSON object a line."""
    dates = "%H:%M:%S" if sys.stderr.isatty() else "%Y-%m-%d %H:%M:%S"
    handler = handler_of(
        settings.log.format, "%(asctime)s %(levelname)-7s %(message)s", dates=dates
    )
    root = logging.getLogger("rbee")
    root.handlers[:] = [handler]
    root.setLevel(settings.log.level.upper())
    root.propagate = False
    logging.getLogger("uvicorn").handlers[:] = [handler]
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def _notify_ready() -> None:
    """Tell systemd, when it started us (sd_notify(3): one datagram to $NOTIFY_SOCKET)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.sendto(b"READY=1", "\0" + address[1:] if address[0] == "@" else address)


def _has_uvloop() -> bool:
    try:
        import uvloop  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        return False
    return True


def main(argv: list[str] | None = None, env: Mapping[str, str] = os.environ) -> int:
    """Entry point of the background form; settings come from files, environment and `--set`."""
    parser = argparse.ArgumentParser(prog="rbee-queen")
    parser.add_argument("--lifetime", choices=("persistent", "linger", "owned"), required=True)
    parser.add_argument("--lifeline", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    args = parser.parse_args(argv)
    flags = dict(item.split("=", 1) for item in args.set)
    try:
        paths = Paths.user(env)

        def read(*, first: bool = False) -> Settings:
            loaded = load(paths=paths, env=env, flags=flags)
            if first:
                setup_logging(loaded.settings)
            if (wrong := loaded.problem) is not None:
                log.warning("ui.toml is left out: %s → %s", wrong.message, wrong.action)
            return loaded.settings

        settings = read(first=True)
        return serve(settings, paths, reload=read, lifetime=args.lifetime, lifeline=args.lifeline)
    except RbeeError as exc:
        sys.stderr.write(f"error {exc.code}: {exc.message}\n  → {exc.action}\n")
        return exc.exit_code


if __name__ == "__main__":
    sys.exit(main())
