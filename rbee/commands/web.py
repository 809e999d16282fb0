"""`rbee web`: serves the screens to browsers of this machine until a signal.

Owns what the terminal shows of it: the link, and another at each Enter. The queen that it had to
start goes with it, unless jobs run; the screens in the tabs only visit her.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

import anyio
import anyio.to_thread

from rbee.client import QueenClient, QueenStatus
from rbee.commands.common import report_defect, settings_and_paths
from rbee.core.states import JOB_TERMINAL
from rbee.errors import BindRefused, RbeeError
from rbee.narration import Narrator
from rbee.output import print_error, print_json
from rbee.paths import Paths
from rbee.settings import Settings

LOOK_LIMIT = 3.0
BACKGROUND_PAUSE = 1.0
"""Seconds until a terminal is looked at again whose input another program gets."""


def run(*, host: str, port: int, tabs: int, open_browser: bool, as_json: bool) -> int:
    """Until SIGINT, SIGTERM or SIGHUP. Raises BackendUnavailable, BindRefused, PortTaken."""
    from rbee.daemons.base import is_loopback, listen
    from rbee.web.pages import assets

    assets()
    if not is_loopback(host):
        raise BindRefused(
            f"other machines reach {host[:80]}; the screens are served to this one only",
            action=f"On the other machine: ssh -L 8600:127.0.0.1:8600 {os.uname().nodename}, and"
            " here: rbee web --port 8600. Then open the link there.",
        )
    settings, paths = settings_and_paths()
    paths.ensure()
    with listen(host, port) as sock:
        site = _Site(settings, paths, sock.getsockname()[:2], tabs=tabs, as_json=as_json)
        anyio.run(site.serve, sock, open_browser)
    return 0


class _Site:
    """One run of the command."""

    def __init__(
        self,
        settings: Settings,
        paths: Paths,
        address: tuple[str, int],
        *,
        tabs: int,
        as_json: bool,
    ) -> None:
        from rbee.daemons.launch import Keeper
        from rbee.daemons.process import python_module
        from rbee.web.gate import Gate
        from rbee.web.opening import Door
        from rbee.web.server import WebServer  # 250 ms, most of it aiohttp

        host, port = address
        self.gate = Gate()
        self.base = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
        self.door = Door(paths.runtime, f"web-{port}")
        self.keeper = Keeper(settings, paths)
        self.as_json = as_json
        self.narrator = Narrator(quiet=as_json)
        self.server = WebServer(
            self.gate,
            command=lambda fd: python_module("rbee.commands.web_tab", str(fd)),
            logs_dir=paths.logs_dir,
            most_tabs=tabs,
            spent=self.door.shut,
            failed=lambda exc: print_error(report_defect(exc)),
        )

    async def serve(self, sock: socket.socket, open_browser: bool) -> None:
        """Until a signal; a second Ctrl+C does not wait for anybody."""
        try:
            await self._until_signal(sock, open_browser)
        finally:
            with anyio.CancelScope(shield=True):
                self.narrator.say("closing")
                self.door.shut()
                await self.server.stop()
                await self._leave_queen()

    async def _until_signal(self, sock: socket.socket, open_browser: bool) -> None:
        ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        with anyio.open_signal_receiver(*ending) as signals:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.keeper.keep, _Reporter(self.narrator))
                await self.server.start(sock)
                await self._invite(open_browser)
                tasks.start_soon(self._more_links)
                async for _ in signals:
                    break
                tasks.cancel_scope.cancel()

    def link(self) -> str:
        """A new one; the one before opens nothing any more."""
        return f"{self.base}?token={self.gate.new_token()}"

    async def _invite(self, open_browser: bool) -> None:
        link = self.link()
        if self.as_json:
            print_json({"url": link, "pid": os.getpid()})
            sys.stdout.flush()
        else:
            _print(link)
            again = "; Enter makes another" if sys.stdin.isatty() else ""
            self.narrator.say(f"the link works once, on this machine{again}; Ctrl+C ends it all")
        if open_browser:
            await self._open(link)

    async def _open(self, link: str) -> None:
        try:
            self.door.lead_to(link)
            opened = await anyio.to_thread.run_sync(self.door.open, abandon_on_cancel=True)
        except (RbeeError, OSError) as exc:
            self.narrator.say(f"the browser gets no file to open: {exc}; open the link yourself")
            return
        if not opened:
            self.door.shut()
            self.narrator.say("no browser with a window is here; open the link yourself")

    async def _more_links(self) -> None:
        """A line on the terminal asks for another link."""
        if self.as_json or not sys.stdin.isatty():
            return
        fd = sys.stdin.fileno()
        while True:
            await anyio.wait_readable(fd)
            try:
                if os.tcgetpgrp(fd) != os.getpgrp():
                    await anyio.sleep(BACKGROUND_PAUSE)
                    continue
                if not os.read(fd, 4096):
                    return
            except OSError:  # the terminal has gone
                return
            self.door.shut()
            _print(self.link())

    async def _leave_queen(self) -> None:
        if not self.keeper.owned:
            return
        url, busy = await self._busy()
        if busy:
            await self.keeper.leave()
            jobs = "1 job is" if busy == 1 else f"{busy} jobs are"
            self.narrator.say(
                f"{jobs} running: the queen stays at {url}; stop her with `rbee queen stop`"
            )
        else:
            await self.keeper.stop()

    async def _busy(self) -> tuple[str, int]:
        """Her address, and how many jobs would be lost with her."""
        url = self.keeper.url
        if url is None:
            return "", 0
        with anyio.move_on_after(LOOK_LIMIT):
            try:
                async with QueenClient(url) as client:
                    jobs = await client.jobs()
            except RbeeError:
                return url, 0
            return url, sum(job.state not in JOB_TERMINAL for job in jobs)
        return url, 0


class _Reporter:
    """Says how it stands with the queen, each thing once."""

    def __init__(self, narrator: Narrator) -> None:
        self._narrator = narrator
        self._last = ""

    def __call__(self, status: QueenStatus) -> None:
        action = f"; {status.error.action}" if status.error is not None else ""
        if status.message != self._last:
            self._last = status.message
            self._narrator.say(f"{status.message}{action}")


def _print(link: str) -> None:
    sys.stdout.write(link + "\n")
    sys.stdout.flush()
