"""A hive as a process of its own: `rbee-hive --host --port --queen-url --name`, flags only.

Announces itself to the queen, then serves her. Without a queen that follows its telemetry for the
lease (60 s by default) it stops its workers and itself; while it waits it announces itself again.
The internal token comes in the environment (`RBEE_INTERNAL_TOKEN`) and is removed from it.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import anyio

from rbee import __version__
from rbee.daemons.base import first_error, listen, make_server, serve, url_of
from rbee.daemons.logs import handler_of
from rbee.errors import RbeeError, SettingsError
from rbee.paths import Paths
from rbee.protocol import PROTOCOL
from rbee.protocol.base import encode
from rbee.protocol.hives import HiveReady
from rbee.settings import Settings, load

if TYPE_CHECKING:
    from rbee.daemons.hive.app import Feed

log = logging.getLogger("rbee.hive")
ANNOUNCE_EVERY = 1.0


async def run(
    settings: Settings, paths: Paths, sock: socket.socket, *, queen_url: str, token: str
) -> None:
    """Serve until told to stop, or until the lease has run out."""
    from rbee.daemons.hive.app import Feed, build  # heavy: starlette
    from rbee.daemons.hive.hive import Hive

    feed = Feed()
    url = url_of(sock)
    hive = Hive(settings=settings, paths=paths, listener=feed.tell, callback_url=url, token=token)
    ready = HiveReady(name=hive.name, url=url, token=token, version=__version__, protocol=PROTOCOL)
    async with anyio.create_task_group() as tasks:

        def stop(reason: str) -> None:
            log.info("hive %s stops: %s", hive.name, reason)
            tasks.cancel_scope.cancel()

        async def signals() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
                async for number in received:
                    stop(f"signal {signal.Signals(number).name}")

        async def lease() -> None:
            while True:
                await _announce(ready, queen_url, feed)
                alone = feed.alone_since
                if alone is not None and time.monotonic() - alone > settings.hive.lease:
                    stop(f"no queen for {settings.hive.lease:g} s")
                await anyio.sleep(ANNOUNCE_EVERY)

        server = make_server(build(hive, feed, shutdown=stop))
        tasks.start_soon(signals)
        await tasks.start(hive.run)
        tasks.start_soon(serve, server, sock)
        tasks.start_soon(lease)
        log.info("hive %s listens on %s", hive.name, url)


async def _announce(ready: HiveReady, queen_url: str, feed: Feed) -> None:
    if feed.alone_since is None:
        return
    import httpx  # 140 ms

    headers = {"Authorization": f"Bearer {ready.token}"}
    try:
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as http:
            reply = await http.post(
                f"{queen_url}/v1/hives/ready", content=encode(ready), headers=headers
            )
        if reply.status_code != 202:
            log.warning("the queen at %s answered %d", queen_url, reply.status_code)
    except httpx.HTTPError as exc:
        log.warning("no queen at %s (%s)", queen_url, type(exc).__name__)


def main(argv: list[str] | None = None, env: Mapping[str, str] = os.environ) -> int:
    """Entry point `rbee-hive`; flags, the same as environment (RBEE_HIVE_HOST, …)."""
    parser = argparse.ArgumentParser(prog="rbee-hive", description=__doc__)
    parser.add_argument("--host")
    parser.add_argument("--port")
    parser.add_argument("--name")
    parser.add_argument("--queen-url", default="http://127.0.0.1:8500")
    args = parser.parse_args(argv)
    given = {"hive.host": args.host, "hive.port": args.port, "hive.name": args.name}
    try:
        paths = Paths.user(env)
        flags = {name: value for name, value in given.items() if value is not None}
        settings = load(paths=paths, env=env, flags=flags).settings
        token = os.environ.pop("RBEE_INTERNAL_TOKEN", "")
        if not token:
            raise SettingsError(
                "RBEE_INTERNAL_TOKEN is not set",
                action="A hive of its own is started by its queen, with her token.",
            )
        _log(settings)
        paths.ensure()
        with listen(settings.hive.host, settings.hive.port) as sock:
            try:
                anyio.run(lambda: run(settings, paths, sock, queen_url=args.queen_url, token=token))
            except BaseExceptionGroup as group:
                raise first_error(group) from group
    except RbeeError as exc:
        sys.stderr.write(f"error {exc.code}: {exc.message}\n  → {exc.action}\n")
        return exc.exit_code
    return 0


def _log(settings: Settings) -> None:
    handler = handler_of(settings.log.format, "%(levelname)s %(message)s")
    logging.basicConfig(level=settings.log.level.upper(), handlers=[handler])
    for chatty in ("httpx", "httpcore"):  # they write whole addresses, signatures included
        logging.getLogger(chatty).setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
