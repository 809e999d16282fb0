"""The HTTP server of `rbee web`: one page, its files, and a web socket for each tab.

Owns every decision about a request, in one place and in this order: whose name was called, which
page asks, which link or cookie it brings. What passes is the terminal's; the log is nobody's,
since an address may hold a token.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from aiohttp import WSMsgType, web

from rbee.daemons.process import tail
from rbee.errors import RbeeError
from rbee.narration import printable
from rbee.web import pages
from rbee.web.gate import COOKIE, Gate, is_own_name, is_own_page
from rbee.web.tab import HIGHEST, WIDEST, Tab, cells, start_tab

MESSAGE_LIMIT = 1 << 20
"""Bytes of one message of a browser: a paste of 100 kB is one."""
HEARTBEAT = 15.0
GOING_AWAY, TRY_LATER, UNSUPPORTED = 1001, 1013, 1003
"""Why a web socket is closed (RFC 6455, 7.4.1, and the registry)."""
LAST_LINES = 12


@dataclass
class _Place:
    """Where a tab runs. `ending`: its screens are on their way out."""

    number: int
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ending: bool = False


class WebServer:
    """Serves until stopped."""

    def __init__(
        self,
        gate: Gate,
        *,
        command: Callable[[int], Sequence[str]],
        logs_dir: Path,
        most_tabs: int,
        spent: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """`command`: the screens' command line for a descriptor; `spent`: a link was used;
        `failed`: a defect met a request. Raises BackendUnavailable for another textual-serve."""
        self.gate = gate
        self._command = command
        self._logs = logs_dir
        self._most = most_tabs
        self._spent = spent
        self._failed = failed
        self._assets = pages.assets()
        self._places: dict[int, _Place] = {}
        self._left = anyio.Event()
        self._stopping = False
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._dressed)
        # aiohttp would log the words of a request it cannot read.
        logging.getLogger("aiohttp").setLevel(logging.CRITICAL + 1)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def start(self, sock: socket.socket) -> None:
        """Answer on a listening socket, from now on."""
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()

    async def stop(self) -> None:
        """End every tab, then the server; returns when all are gone."""
        self._stopping = True
        with anyio.CancelScope(shield=True):
            while self._places:
                for place in self._places.values():
                    place.scope.cancel()
                await self._left.wait()
            await self._runner.cleanup()

    async def _dressed(self, request: web.Request) -> web.StreamResponse:
        try:
            response = await self._answer(request)
        except Exception as exc:
            self._failed(exc)
            response = _refused(500, "rbee web has met a defect of its own.")
        if not response.prepared:
            host = request.host if is_own_name(request.host) else ""
            response.headers.update(pages.headers(host))
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not is_own_name(hosts[0]):
            return _refused(403, "This address is not one that rbee web answers to.")
        origin = request.headers.get("Origin")
        if origin is not None and not is_own_page(origin, hosts[0]):
            return _refused(403, "A page of another site may not use this one.")
        if request.method != "GET":
            return _refused(405, "This is not how a browser opens the screens.")
        if request.path == "/" and "token" in request.query:
            return self._enter(request)
        prefix = self.gate.prefix
        cookie = request.cookies.get(COOKIE)
        if not request.path.startswith(prefix) or not self.gate.knows(cookie):
            return _refused(401, "This browser has not been let in.")
        name = request.path.removeprefix(prefix)
        if name == "ws":
            return await self._socket(request, origin)
        if name == "":
            return web.Response(text=pages.terminal(hosts[0], prefix), content_type="text/html")
        if name in self._assets:
            file = self._assets[name]
            return web.FileResponse(file, headers={"Content-Type": pages.TYPES[file.suffix]})
        return _refused(404, "There is nothing here.")

    def _enter(self, request: web.Request) -> web.Response:
        if "prefetch" in request.headers.get("Sec-Purpose", ""):
            return _refused(503, "The link is kept for when it is really opened.")
        cookie = self.gate.redeem(request.query["token"])
        if cookie is None:
            return _refused(403, "This link was used already, or a newer one took its place.")
        self._spent()
        response = web.Response(text=pages.opening(self.gate.prefix), content_type="text/html")
        response.set_cookie(COOKIE, cookie, path=self.gate.prefix, httponly=True, samesite="Strict")
        return response

    async def _socket(self, request: web.Request, origin: str | None) -> web.StreamResponse:
        if origin is None:
            return _refused(403, "Only the page of the terminal may use this.")
        ws = web.WebSocketResponse(
            heartbeat=HEARTBEAT, max_msg_size=MESSAGE_LIMIT, compress=False, timeout=2.0
        )
        if not ws.can_prepare(request).ok:
            return _refused(400, "This is for the terminal's own connection.")
        await ws.prepare(request)
        place = await self._place()
        if place is None:
            await ws.send_bytes(_shown([_full(self._most), "`rbee web --tabs N` allows more."]))
            await ws.close(code=TRY_LATER)
            return ws
        with place.scope:
            try:
                await self._tab(ws, place, request)
            finally:
                del self._places[place.number]
                self._left.set()
                self._left = anyio.Event()
        with anyio.CancelScope(shield=True):
            await ws.close(code=GOING_AWAY)
        return ws

    async def _place(self) -> _Place | None:
        """Room for a tab; None when there is none. One that is ending is waited for, since a page
        that is loaded again leaves its own place only now."""
        while not self._stopping:
            for number in range(1, self._most + 1):
                if number not in self._places:
                    place = self._places[number] = _Place(number)
                    return place
            if not any(place.ending for place in self._places.values()):
                break
            await self._left.wait()
        return None

    async def _tab(self, ws: web.WebSocketResponse, place: _Place, request: web.Request) -> None:
        log_path = self._logs / f"web-{place.number}.log"
        told: list[str] = []
        tab: Tab | None = None
        try:
            tab = await start_tab(
                self._command,
                log_path=log_path,
                width=cells(request.query.get("width"), WIDEST, 80),
                height=cells(request.query.get("height"), HIGHEST, 24),
            )
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_from_browser, ws, tab, tasks.cancel_scope)
                await _to_browser(ws, tab)
                tasks.cancel_scope.cancel()
        except* (RbeeError, OSError) as group:
            told = [str(exc) for exc in group.exceptions]
        finally:
            place.ending = True
            if tab is not None:
                await tab.end()
        if tab is None or await tab.process.wait() != 0 or told:
            last = await anyio.to_thread.run_sync(tail, log_path, LAST_LINES)
            lines = ["The screen ended by itself.", *told, *last, f"See {log_path}."]
            if not ws.closed:
                await ws.send_bytes(_shown(lines))


async def _to_browser(ws: web.WebSocketResponse, tab: Tab) -> None:
    """Until the screens end or the browser is gone."""
    while (packet := await tab.read()) is not None and not ws.closed:
        letter, payload = packet
        if letter == b"D":
            await ws.send_bytes(payload)
        elif letter == b"M" and (link := link_of(payload)) is not None:
            await ws.send_str(json.dumps(["open_url", {"url": link, "new_tab": True}]))


async def _from_browser(ws: web.WebSocketResponse, tab: Tab, scope: anyio.CancelScope) -> None:
    """Until the browser is gone, or says what no terminal says."""
    async for message in ws:
        if message.type is not WSMsgType.TEXT:
            break
        try:
            known = await _obey(ws, tab, json.loads(message.data))
        except (ValueError, RecursionError):
            known = False
        if not known:
            await ws.close(code=UNSUPPORTED)
            break
    scope.cancel()


async def _obey(ws: web.WebSocketResponse, tab: Tab, message: object) -> bool:
    match message:
        case ["stdin", str(text)]:
            await tab.type(text)
        case ["resize", {"width": int(width), "height": int(height)}]:
            await tab.tell(
                type="resize", width=cells(width, WIDEST, 80), height=cells(height, HIGHEST, 24)
            )
        case ["focus" | "blur" as word, *_]:
            await tab.tell(type=word)
        case ["ping", str(sent)]:
            await ws.send_str(json.dumps(["pong", sent[:64]]))
        case _:
            return False
    return True


def link_of(payload: bytes) -> str | None:
    """The address that the screens ask the browser to open; None when it is something else, or
    nothing a browser should be sent to: the words may be a model's."""
    try:
        words = json.loads(payload)
        url = str(words["url"]) if words["type"] == "open_url" else ""
        parts = urlsplit(url)
    except (ValueError, TypeError, KeyError):
        return None
    return url if parts.scheme in ("http", "https") and parts.hostname else None


def _full(most: int) -> str:
    tabs = "One tab is" if most == 1 else f"{most} tabs are"
    return f"{tabs} open, which is the most: close one."


def _shown(lines: Sequence[str]) -> bytes:
    """Lines as a terminal shows them that was cleared before."""
    return b"\x1bc" + "\r\n".join(printable(line) for line in lines).encode()


def _refused(status: int, why: str) -> web.Response:
    return web.Response(text=pages.refusal(why), content_type="text/html", status=status)
