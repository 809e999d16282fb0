"""The programs that are compared: how each is started with equal settings, asked, and ended.

Equal: threads, context per slot, slots, flash attention, f16 keys and values, prompt cache on and
of one size, no log of single requests. rbee's own two ways in are in `servers_rbee`.
"""

from __future__ import annotations

import json
import socket
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import anyio

from bench import processes
from bench.client import Request, fetch
from bench.dialects import (
    Ask,
    Said,
    llama_server_body,
    openai_body,
    read_llama_server,
    read_openai,
)
from bench.http_bytes import BadReply
from bench.load import Wrong, run
from bench.places import LOGS
from bench.processes import ServerDied, ServerProcess

START_LIMIT = 60.0
PROMPT_CACHE_MIB = 256
"""Host memory for prompts that lost their slot: what rbee takes when nothing is said."""


@dataclass(frozen=True)
class Setup:
    """What all servers of a comparison are started with."""

    model: Path
    slots: int
    ctx: int
    """Tokens per slot."""
    threads: int


class Server(ABC):
    """One running program. Make it with `start`; `stop` ends it."""

    name: ClassVar[str]
    host = "127.0.0.1"

    def __init__(self, process: ServerProcess, port: int, setup: Setup) -> None:
        self.process = process
        self.port = port
        self.setup = setup

    @abstractmethod
    def read(self, event: dict[str, Any]) -> Said:
        """What one event of its stream says."""

    @abstractmethod
    def request(self, ask: Ask) -> Request:
        """The request in the server's words."""

    def pids(self) -> list[int]:
        """Its processes, whose CPU and memory count."""
        return [process.pid for process in processes.tree(self.process.pid)]

    async def stop(self) -> None:
        """End it."""
        await self.process.stop()

    async def warm(self, *, chat: bool = False) -> None:
        """Some work that is not measured: pages touched, threads started."""
        texts = [f"Number {n} of the warm-up says" for n in range(self.setup.slots)]
        asks = [Ask(text, 8, seed=1, chat=chat) for text in texts]
        await run(self, asks[:1])
        await run(self, asks)

    async def stats(self) -> dict[str, Any] | None:
        """What the engine counts of itself; None when it does not."""
        return None

    async def _up(self, path: str, headers: dict[str, str] | None = None) -> None:
        """Wait for a 200. Raises Wrong with the last words when it does not come."""
        request = Request(path, method="GET", headers=headers or {})
        try:
            with anyio.fail_after(START_LIMIT):
                while not await self._is_up(request):
                    self.process.check()
                    await anyio.sleep(0.05)
        except (ServerDied, TimeoutError) as exc:
            await self.process.stop()
            raise Wrong(f"{self.name} did not start: {exc or 'it does not answer'}") from exc
        except BaseException:
            await self.process.stop()
            raise

    async def _is_up(self, request: Request) -> bool:
        try:
            return (await fetch(self.host, self.port, request, limit=5.0)).status == 200
        except (OSError, TimeoutError, BadReply):
            return False


class LlamaServer(Server):
    """llama.cpp's own server, of the same source as the installed library."""

    name = "llama-server"

    @staticmethod
    def command(binary: Path, setup: Setup, port: int) -> list[str]:
        """`-c` is the total; `-no-kvu` gives each slot its own share of it, as in rbee."""
        return [
            str(binary),
            *("-m", str(setup.model)),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("-np", str(setup.slots), "-c", str(setup.slots * setup.ctx), "-no-kvu"),
            *("-t", str(setup.threads), "-tb", str(setup.threads)),
            *("-fa", "on", "-ctk", "f16", "-ctv", "f16", "-ub", "512"),
            *("-cb", "--cache-prompt", "-cram", str(PROMPT_CACHE_MIB)),
            *("--no-webui", "--offline", "-lv", "2"),
        ]

    @classmethod
    async def start(cls, binary: Path, setup: Setup) -> LlamaServer:
        """Raises Wrong."""
        port = free_port()
        process = await processes.start(
            cls.command(binary, setup, port), log=LOGS / "llama-server.log"
        )
        server = cls(process, port, setup)
        await server._up("/health")
        return server

    def read(self, event: dict[str, Any]) -> Said:
        """See Server."""
        return read_llama_server(event)

    def request(self, ask: Ask) -> Request:
        """POST /completion"""
        return Request("/completion", json.dumps(llama_server_body(ask)).encode())


class LlamaCppServer(Server):
    """The server that comes with llama-cpp-python, with the same library as rbee's worker."""

    name = "llama_cpp.server"

    @staticmethod
    def command(python: Path, setup: Setup, port: int) -> list[str]:
        """One request at a time is all it does; by default a new one would end the running."""
        return [
            *(str(python), "-m", "llama_cpp.server"),
            *("--model", str(setup.model), "--host", "127.0.0.1", "--port", str(port)),
            *("--n_ctx", str(setup.ctx), "--flash_attn", "true"),
            *("--n_threads", str(setup.threads), "--n_threads_batch", str(setup.threads)),
            *("--interrupt_requests", "false", "--verbose", "false"),
        ]

    @classmethod
    async def start(cls, python: Path, setup: Setup) -> LlamaCppServer:
        """Raises Wrong."""
        port = free_port()
        process = await processes.start(
            cls.command(python, setup, port), log=LOGS / "llama_cpp.server.log"
        )
        server = cls(process, port, setup)
        await server._up("/v1/models")
        return server

    def read(self, event: dict[str, Any]) -> Said:
        """See Server."""
        return read_openai(event)

    def request(self, ask: Ask) -> Request:
        """POST /v1/completions; it has no word for going on after the end of the text."""
        body = openai_body(ask, model="bench", ignore_eos=False)
        return Request("/v1/completions", json.dumps(body).encode())


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
