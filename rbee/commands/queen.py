"""`rbee queen start|stop|status|logs`."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import anyio

from rbee.client import QueenClient
from rbee.commands.common import settings_and_paths
from rbee.errors import NotFound, QueenRunning, QueenUnreachable
from rbee.narration import Narrator, printable
from rbee.output import duration, print_json
from rbee.paths import Paths
from rbee.settings import Settings


def start(*, as_json: bool) -> int:
    """In the background, to stay. Raises QueenRunning when there is one."""
    from rbee.daemons import launch

    settings, paths = settings_and_paths()

    async def run() -> launch.Found:
        found = await launch.find(settings, paths)
        narrator = Narrator(quiet=as_json)
        if found is not None and found.lifetime == "linger":
            async with QueenClient(found.url) as client:
                await client.stay()
            narrator.say(f"the queen at {found.url} would have left when unused; now she stays")
            return found
        if found is not None:
            raise QueenRunning(
                f"a queen already runs at {found.url} (pid {found.pid}, version {found.version})",
                url=found.url,
                pid=found.pid,
            )
        return await launch.start_background(
            settings, paths, lifetime="persistent", narrate=narrator.say
        )

    found = anyio.run(run)
    for what in _posture(settings, paths):
        Narrator(quiet=as_json).say(what)
    if as_json:
        print_json({"url": found.url, "pid": found.pid, "version": found.version})
    return 0


def _posture(settings: Settings, paths: Paths) -> list[str]:
    """What is open beyond the owner, by the settings she was started with."""
    from rbee.access.keys import Keys
    from rbee.daemons.queen.doors import address_of, posture, tls_of

    wanted = settings.queen
    if wanted.url:
        return []
    tls = tls_of(wanted, paths)
    keys = Keys(paths.keys_file).usable(time.time())
    return posture(wanted, tls, address_of(wanted, tls), keys)


def stop(*, as_json: bool) -> int:
    """Take the queen down; returns when she and hers are gone. Raises QueenUnreachable."""
    from rbee.daemons import launch

    settings, paths = settings_and_paths()

    async def run() -> launch.Found:
        found = await launch.find(settings, paths)
        if found is None:
            raise QueenUnreachable("no queen runs", action="There is nothing to stop.")
        await launch.stop(found, paths)
        return found

    found = anyio.run(run)
    if as_json:
        print_json({"stopped": True, "url": found.url, "pid": found.pid})
    else:
        Narrator().say(f"queen at {found.url} stopped")
    return 0


def status(*, as_json: bool) -> int:
    """Where and how she is; 1 when there is none."""
    from rbee.daemons import launch

    settings, paths = settings_and_paths()

    async def run() -> int:
        found = await launch.find(settings, paths)
        if found is None:
            if as_json:
                print_json({"running": False})
            else:
                sys.stderr.write("no queen runs; `rbee queen start` starts one\n")
            return 1
        async with QueenClient(found.url) as client:
            health, info = await client.health(), await client.info()
        if as_json:
            print_json({"running": True, "url": found.url, "info": info, "health": health})
            return 0
        sys.stdout.write(
            f"queen {health.status} at {found.url} (pid {info.pid}, {info.lifetime},"
            f" rbee {info.version}, up {duration(health.uptime_seconds)})\n"
            f"hives {health.hives_online}  workers {health.workers_total}"
            f"  queued {health.queue_depth}\n"
        )
        return 0

    return anyio.run(run)


def logs(*, lines: int, follow: bool) -> int:
    """The log's end; `follow`: and what is added, until Ctrl+C."""
    _, paths = settings_and_paths()
    if not paths.queen_log.exists():
        raise NotFound(
            f"no log at {paths.queen_log}", action="It is written by a queen in the background."
        )
    anyio.run(_logs, paths.queen_log, lines, follow)
    return 0


async def _logs(path: Path, lines: int, follow: bool) -> None:
    with path.open(encoding="utf-8", errors="replace") as file:
        last = deque(file, maxlen=lines)
        begun = last.pop() if last and not last[-1].endswith("\n") else ""
        _print(last)
        while follow:
            *whole, begun = (begun + file.read()).split("\n")
            _print(whole)
            if not whole:
                await anyio.sleep(0.2)  # a plain file tells nobody that it has grown
        if begun:
            _print([begun])


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(printable(line.rstrip("\n")) + "\n")
    sys.stdout.flush()
