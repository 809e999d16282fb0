"""A model hub as a program of its own: the hub's HTTP for models, with faults to order.

    python -m tests.support.hub --port 0 --root DIR

prints two lines, the hub's url and its CDN's (another port: another origin, as in life), and serves
until it gets SIGTERM or its stdin ends. `DIR/org/repo/` are the repositories (see hub_repos.py);
files may be links, and sparse ones of any size. Tests use it through `hub_fixture.StandIn`.

Served: GET /api/models (search, filter, pipeline_tag, author, sort, limit, full, expand; pages by
Link), GET /api/models/{repo}[/revision/{rev}][?blobs=true], HEAD and GET
/{repo}/resolve/{rev}/{file} (large files: 302 to the CDN with a signed query), Range, If-Range,
206, 416, ETag.
A gated repository answers 401 to the nameless, 403 to `Bearer hf_stranger` and serves
`Bearer hf_member`; a private one is not there for any but the last.

POST /_fault {"path": regex, "kind": …, "times": 1, "at": 0, …}, `times` 0 for ever, `method` and
`origin` (hub or cdn) narrow it; the first four kinds count where a file's bytes are sent:
    cut          end the connection after `at` bytes of the body
    wrong_bytes  turn over 16 bytes of the body from `at` on
    slow         `rate` bytes per second
    stall        nothing more after `at` bytes
    mute         no answer at all
    status       answer `status` with `headers` and `body` (`repeat`: that often)
    expire       signatures given so far are good no more (at once, no request is waited for)
DELETE /_fault takes all away. GET /_log lists the requests seen: method, path, origin (hub or cdn),
range, authorized, status, sent (bytes of the body); DELETE /_log empties it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import select
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.support.hub_repos import File, Repo, repos

MEMBER, STRANGER = "hf_member", "hf_stranger"
_PIECE = 1 << 18
_PAGE = 100
_WHOLE, _BODY = frozenset({"status", "mute"}), frozenset({"cut", "wrong_bytes", "slow", "stall"})


@dataclass
class World:
    """What both ports share."""

    root: Path
    hub: str = ""
    cdn: str = ""
    epoch: int = 0
    faults: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    log: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopping: threading.Event = field(default_factory=threading.Event)

    def sign(self, path: str) -> str:
        return hashlib.sha256(f"{self.epoch} {path}".encode()).hexdigest()[:32]

    def fault(self, request: dict[str, Any], kinds: frozenset[str]) -> dict[str, Any]:
        """The first of these kinds that matches, used up by one; of no kind when there is none."""
        with self.lock:
            for fault in self.faults:
                if fault["kind"] not in kinds or not re.search(fault["path"], request["path"]):
                    continue
                if any(
                    fault.get(key, request[key]) != request[key] for key in ("method", "origin")
                ):
                    continue
                if fault["times"] == 1:
                    self.faults.remove(fault)
                elif fault["times"]:
                    fault["times"] -= 1
                return fault
        return {"kind": "", "at": 0}


class Handler(BaseHTTPRequestHandler):
    """One connection of the hub or, on the other port, of its CDN."""

    protocol_version = "HTTP/1.1"
    world: World
    origin: str

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing on stderr; GET /_log tells."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = {"times": 1, "at": 0, **json.loads(body)}
        with self.world.lock:
            if fault["kind"] == "expire":
                self.world.epoch += 1
            else:
                self.world.faults.append(fault)
        self.entry = {}
        self.send_json(200, {})

    def do_DELETE(self) -> None:
        with self.world.lock:
            (self.world.log if self.path == "/_log" else self.world.faults).clear()
        self.entry = {}
        self.send_json(200, {})

    def do_HEAD(self) -> None:
        self.serve()

    def do_GET(self) -> None:
        if self.path == "/_log":
            self.entry = {}
            with self.world.lock:
                told = list(self.world.log)
            self.send_json(200, told)
            return
        self.serve()

    def serve(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        path = unquote(url.path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.entry: dict[str, Any] = {
            "method": self.command,
            "path": path,
            "origin": self.origin,
            "range": self.headers.get("Range"),
            "authorized": bool(token),
            "status": 0,
            "sent": 0,
        }
        with self.world.lock:
            self.world.log.append(self.entry)
        fault = self.world.fault(self.entry, _WHOLE)
        if fault["kind"] == "status":
            return self.send_fault(fault)
        if fault["kind"] == "mute":
            return self.hold()
        if self.origin == "cdn":
            return self.serve_cdn(path, self.query)
        if token and token not in (MEMBER, STRANGER):
            return self.refuse(401, None, "Invalid credentials in Authorization header")
        if path == "/api/models":
            return self.serve_search()
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self.serve_info(match[1], match[2] or "main", token)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.serve_file(match[1], match[2], match[3], token)
        return self.refuse(404, None, "Not Found")

    def repo(self, name: str, token: str) -> Repo | None:
        """None, answered already, for one that is not there or is hidden."""
        repo = Repo(self.world.root, name)
        if repo.exists and (not repo.private or token == MEMBER):
            return repo
        if token:
            self.refuse(404, "RepoNotFound", "Repository not found")
        else:
            self.refuse(401, None, "Invalid username or password.")
        return None

    def serve_info(self, name: str, revision: str, token: str) -> None:
        if (repo := self.repo(name, token)) is None:
            return
        if not repo.knows(revision):
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        blobs = "true" in [value.lower() for value in self.query.get("blobs", [])]
        self.send_json(200, self.expanded(repo.told(blobs=blobs)))

    def serve_search(self) -> None:
        wanted = {key: values[0] for key, values in self.query.items()}
        words, tags = wanted.get("search", "").lower(), self.query.get("filter", [])
        found = [
            repo
            for repo in repos(self.world.root)
            if words in repo.name.lower()
            and not repo.private
            and set(tags) <= {*repo.tags, repo.settings.get("task", "text-generation")}
            and wanted.get("author", "") in ("", repo.name.partition("/")[0])
            and wanted.get("pipeline_tag") in (None, repo.settings.get("task", "text-generation"))
        ]
        start, limit = int(wanted.get("cursor", 0)), min(int(wanted.get("limit", _PAGE)), _PAGE)
        full = "full" in wanted or "expand" in wanted
        page = [self.expanded(repo.told(full=full)) for repo in found[start : start + limit]]
        headers: dict[str, str] = {}
        if start + limit < len(found):
            rest = {key: values for key, values in self.query.items() if key != "cursor"}
            pairs = "&".join(f"{k}={quote(v)}" for k, values in rest.items() for v in values)
            link = f"{self.world.hub}/api/models?{pairs}&cursor={start + limit}"
            headers["Link"] = f'<{link}>; rel="next"'
        self.send_json(200, page, headers)

    def expanded(self, told: dict[str, Any]) -> dict[str, Any]:
        wanted = self.query.get("expand")
        if not wanted:
            return told
        return {key: value for key, value in told.items() if key in (*wanted, "_id", "id")}

    def serve_file(self, name: str, revision: str, file_name: str, token: str) -> None:
        if (repo := self.repo(name, token)) is None:
            return
        if repo.gated and token != MEMBER:
            start = f"Access to model {name} is restricted"
            if token:
                self.refuse(403, "GatedRepo", f"{start} and you are not in the authorized list.")
            else:
                self.refuse(401, "GatedRepo", f"{start}. You must be authenticated to access it.")
            return
        if not repo.knows(revision):
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        if (file := repo.file(file_name)) is None:
            self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": repo.commit})
            return
        headers = {"X-Repo-Commit": repo.commit}
        if not file.lfs:
            self.send_file(file, headers)
            return
        path = f"/cdn/{quote(name)}/{quote(file_name)}"
        signed = f"{path}?Expires=4102444800&Key-Pair-Id=K1&Signature={self.world.sign(path)}"
        headers |= {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.sha256}"'}
        self.send_whole(302, b"Found", {**headers, "Location": f"{self.world.cdn}{signed}"})

    def serve_cdn(self, path: str, query: dict[str, list[str]]) -> None:
        if query.get("Signature") != [self.world.sign(quote(path))]:
            self.send_whole(403, b"<Error><Code>AccessDenied</Code></Error>", {})
            return
        match = re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path)
        file = Repo(self.world.root, match[1]).file(match[2]) if match else None
        if file is None:
            self.send_whole(404, b"<Error><Code>NoSuchKey</Code></Error>", {})
            return
        self.send_file(file, {})

    def send_file(self, file: File, headers: dict[str, str]) -> None:
        headers = {**headers, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        start, end, status = 0, file.size, 200
        wanted = self.headers.get("Range", "")
        condition = self.headers.get("If-Range")
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted.strip())
        if match and any(match.groups()) and condition in (None, headers["ETag"]):
            if match[1]:
                start, end = int(match[1]), min(int(match[2] or file.size) + 1, file.size)
            else:
                start = max(0, file.size - int(match[2]))
            if start >= min(end, file.size):
                self.send_whole(416, b"", {"Content-Range": f"bytes */{file.size}"})
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
        self.begin(status, end - start, headers)
        if self.command == "GET":
            self.send_body(file.path, start, end - start)

    def send_body(self, path: Path, start: int, length: int) -> None:
        fault = self.world.fault(self.entry, _BODY)
        kind, at, rate = fault["kind"], fault["at"], fault.get("rate", 0)
        begun, sent = time.monotonic(), 0
        try:
            with path.open("rb") as source:
                source.seek(start)
                while sent < length:
                    size = min(_PIECE, length - sent, max(1, rate // 10) if rate else _PIECE)
                    if kind in ("cut", "stall"):
                        if sent >= at:
                            break
                        size = min(size, at - sent)
                    piece = source.read(size)
                    if kind == "wrong_bytes":
                        piece = _turned(piece, at - sent)
                    self.connection.sendall(piece)
                    sent += len(piece)
                    self.entry["sent"] = sent
                    if rate and self.world.stopping.wait(
                        max(0.0, begun + sent / rate - time.monotonic())
                    ):
                        break
        except OSError:
            self.close_connection = True
            return
        if sent < length:
            self.close_connection = True
            if kind == "stall":
                self.hold()

    def hold(self) -> None:
        """Say nothing until the other side has gone."""
        self.close_connection = True
        while not self.world.stopping.is_set():
            ready, _, _ = select.select([self.connection], [], [], 0.1)
            try:
                if ready and not self.connection.recv(1, socket.MSG_PEEK):
                    return
            except OSError:
                return
            if ready:
                self.world.stopping.wait(0.1)

    def refuse(
        self, status: int, code: str | None, message: str, headers: dict[str, str] | None = None
    ) -> None:
        more = {"X-Error-Message": message, **(headers or {})}
        if code:
            more["X-Error-Code"] = code
        self.send_json(status, {"error": message}, more)

    def send_fault(self, fault: dict[str, Any]) -> None:
        body = str(fault.get("body", "")).encode() * int(fault.get("repeat", 1))
        self.send_whole(fault["status"], body, fault.get("headers", {}))

    def send_json(self, status: int, what: Any, headers: dict[str, str] | None = None) -> None:
        kind = {"Content-Type": "application/json; charset=utf-8"}
        self.send_whole(status, json.dumps(what).encode(), {**kind, **(headers or {})})

    def send_whole(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.begin(status, len(body), headers)
        if self.command == "HEAD":
            return
        try:
            self.connection.sendall(body)
            self.entry["sent"] = len(body)
        except OSError:
            self.close_connection = True

    def begin(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.entry["status"] = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _turned(piece: bytes, at: int) -> bytes:
    out = bytearray(piece)
    for index in range(max(0, at), min(len(out), at + 16)):
        out[index] ^= 0xFF
    return bytes(out)


def _serve(world: World, origin: str, port: int) -> str:
    handler = type(origin.title(), (Handler,), {"world": world, "origin": origin})
    server = Server(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--root", type=Path, required=True)
    args = parser.parse_args()
    args.root.mkdir(parents=True, exist_ok=True)
    world = World(args.root)
    world.cdn = _serve(world, "cdn", 0)
    world.hub = _serve(world, "hub", args.port)
    signal.signal(signal.SIGTERM, lambda *_: world.stopping.set())
    print(world.hub, world.cdn, sep="\n", flush=True)  # noqa: T201
    threading.Thread(target=lambda: (sys.stdin.read(), world.stopping.set()), daemon=True).start()
    world.stopping.wait()


if __name__ == "__main__":
    main()
