"""The worker process: `python -m rbee.daemons.worker.main --spec JSON --fd N --callback-url URL`.

Owns the order of starting (HTTP, ready callback, load) and of ending: by signal at once, by request
in good order, by a load or a device that failed after the hive was told. The internal token comes
in the environment variable RBEE_INTERNAL_TOKEN and is taken out of it. The socket is inherited,
already listening.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import importlib.util
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import anyio
import anyio.abc

from rbee.daemons import base
from rbee.daemons.logs import handler_of
from rbee.daemons.worker.app import make_app
from rbee.daemons.worker.report import Reporter
from rbee.daemons.worker.runner import Runner
from rbee.errors import RbeeError
from rbee.protocol import PROTOCOL
from rbee.protocol.base import decode
from rbee.protocol.workers import ShutdownRequest, WorkerReady, WorkerSpec

log = logging.getLogger("rbee.worker")
TOKEN_VARIABLE = "RBEE_INTERNAL_TOKEN"
_TELL_SECONDS = 2.0
_CANCEL_SECONDS = 0.3
_FLUSH_SECONDS = 0.3
_PR_SET_NAME = 15


class Server(base.Server):
    """Says when it takes requests; make it on the event loop."""

    up: anyio.Event

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then set `up`."""
        await super().startup(sockets)
        self.up.set()


class Worker:
    """One life of the process."""

    def __init__(
        self,
        spec: WorkerSpec,
        sock: socket.socket,
        *,
        callback_url: str,
        token: str,
        beat: float = 2.0,
    ) -> None:
        self._spec = spec
        self._sock = sock
        self._callback_url = callback_url
        self._token = token
        self._beat = beat
        self._asked: ShutdownRequest | None = None
        self._wake = anyio.Event()

    async def live(self) -> int:
        """Until the end; returns the exit code."""
        code = 1
        async with anyio.create_task_group() as tasks:
            code = await self._live(tasks)
            tasks.cancel_scope.cancel()
        return code

    async def _live(self, tasks: anyio.abc.TaskGroup) -> int:
        url = base.url_of(self._sock)
        runner = Runner(self._spec, tasks, progress_url=f"{url}/v1/loading/progress")
        app = make_app(runner, self._stop, token=self._token)
        server = Server(base.make_server(app).config)
        server.up = anyio.Event()
        served = anyio.Event()
        reporter = Reporter(
            runner,
            self._ready(url),
            callback_url=self._callback_url,
            token=self._token,
            beat=self._beat,
        )
        tasks.start_soon(self._signals)
        tasks.start_soon(_serve, server, self._sock, served)
        tasks.start_soon(self._begin, tasks, server, runner, reporter)
        await self._wake.wait()
        code = await self._end(runner, reporter)
        server.stop()
        with anyio.move_on_after(_FLUSH_SECONDS):
            await served.wait()
        return code

    async def _end(self, runner: Runner, reporter: Reporter) -> int:
        if self._asked is None:
            await reporter.deliver(limit=_TELL_SECONDS)
            if runner.error is not None:
                log.error("failed: %s", runner.error.message)  # the last line: the hive tells it
            return 1
        runner.close_door()
        if self._asked.graceful:
            self._wake = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._hurry, tasks.cancel_scope)
                with anyio.move_on_after(self._asked.timeout_seconds):
                    await runner.drained()
                tasks.cancel_scope.cancel()
        runner.cancel_all()
        with anyio.move_on_after(_CANCEL_SECONDS):
            await runner.drained()
        return 0

    async def _hurry(self, waiting: anyio.CancelScope) -> None:
        """A signal, or a shutdown that is not graceful, ends the waiting of one that is."""
        while self._asked is None or self._asked.graceful:
            await self._wake.wait()
            self._wake = anyio.Event()
        waiting.cancel()

    async def _begin(
        self, tasks: anyio.abc.TaskGroup, server: Server, runner: Runner, reporter: Reporter
    ) -> None:
        await server.up.wait()
        await reporter.announce()
        tasks.start_soon(reporter.run)
        await runner.load()
        gc.collect()
        gc.freeze()  # what stays for good need not be walked at every collection
        await runner.failed.wait()
        self._wake.set()

    async def _signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info("stopping signal=%s", signal.Signals(number).name)
                self._stop(ShutdownRequest(graceful=False))

    def _stop(self, request: ShutdownRequest) -> None:
        if self._asked is None or not request.graceful:
            self._asked = request
            self._wake.set()

    def _ready(self, url: str) -> WorkerReady:
        return WorkerReady(
            worker_id=self._spec.worker_id,
            url=url,
            model=self._spec.model_id,
            backend=self._spec.backend,
            device=self._spec.device,
            pid=os.getpid(),
            protocol=PROTOCOL,
        )


async def _serve(server: Server, sock: socket.socket, served: anyio.Event) -> None:
    try:
        await base.serve(server, sock)
    finally:
        served.set()


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Never returns: the process ends here, even when native code is still at work in a thread."""
    options = _arguments(argv)
    handler = handler_of(options.log_format, "%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for chatty in ("httpx", "uvicorn"):  # one logs each heartbeat, the other its own life
        logging.getLogger(chatty).setLevel(logging.WARNING)
    token = os.environ.pop(TOKEN_VARIABLE, "")
    try:
        spec = decode(options.spec, WorkerSpec)
    except RbeeError as exc:
        _leave(2, f"--spec: {exc.message}")
    if not token:
        _leave(2, f"the environment variable {TOKEN_VARIABLE} is not set")
    try:
        sock = socket.socket(fileno=options.fd)
        sock.set_inheritable(False)
    except OSError as exc:
        _leave(2, f"--fd {options.fd} is not a socket: {exc.strerror}")
    _set_title()
    log.info("starting worker=%s model=%s backend=%s", spec.worker_id, spec.model_id, spec.backend)
    worker = functools.partial(
        Worker, spec, sock, callback_url=options.callback_url, token=token, beat=options.beat
    )
    anyio.run(_run, worker, backend_options=_fast_loop())
    _leave(1, "the event loop ended")


async def _run(make: Callable[[], Worker]) -> None:
    """Leaves from inside the loop: its regular end would wait for the backend's threads."""
    code = 1
    try:
        code = await make().live()
    except Exception:
        log.exception("the worker failed")
    _leave(code)


def _leave(code: int, message: str = "") -> NoReturn:
    if message:
        sys.stderr.write(f"worker: {message}\n")
    logging.shutdown()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rbee-worker", description="Runs one model for a hive; started by hives only."
    )
    parser.add_argument("--spec", required=True, help="what to run: a WorkerSpec as JSON")
    parser.add_argument("--fd", required=True, type=int, help="an inherited listening TCP socket")
    parser.add_argument("--callback-url", required=True, help="the hive's base URL")
    parser.add_argument("--beat", type=float, default=2.0, help="seconds between heartbeats")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    return parser.parse_args(argv)


def _fast_loop() -> dict[str, bool]:
    """uvloop where there is one; Windows has none."""
    return {"use_uvloop": importlib.util.find_spec("uvloop") is not None}


def _set_title() -> None:
    """The short name that process lists show. Linux only."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_NAME, b"rbee-worker", 0, 0, 0)


if __name__ == "__main__":
    main()
