"""Which worker is likely to know which beginning of a prompt.

A request's canonical text (tools, then roles and contents, in the order in which templates put
them) is cut into blocks of 1 KiB; each block's hash covers all before it, so one hash names one
beginning. Owns the map from hashes to workers; only a guess: the worker's own count is the truth.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from itertools import islice

from rbee.protocol.operations import Embed, Infer, Operation

BLOCK = 1024
"""Bytes."""
MOST_BLOCKS = 256
"""Of one prompt; what is beyond is not told apart."""
MOST_ENTRIES = 100_000
"""Pairs of block and worker."""
MOST_HOLDERS = 32
"""Workers that are named for one prompt."""


def canonical(request: Operation) -> str:
    """The text whose equal beginnings make equal beginnings of the rendered prompt."""
    if isinstance(request, Embed):
        return "".join(request.texts())
    if not isinstance(request, Infer):
        return ""
    if request.raw:
        return f"\x1d{request.prompt or ''}"
    parts = [
        f"{t.function.name}\x1f{t.function.description or ''}\x1f"
        f"{json.dumps(t.function.parameters, sort_keys=True)}\x1e"
        for t in request.offered()
    ]
    if request.messages is None:
        parts.append(f"user\x1f{request.prompt or ''}")
    else:
        for message in request.messages:
            calls = "".join(
                f"{c.function.name}{c.function.arguments}" for c in message.tool_calls or ()
            )
            parts.append(f"{message.role}\x1f{message.text()}{calls}\x1e")
    return "".join(parts)


def chain(text: str) -> tuple[int, ...]:
    """The hash of each beginning that is a whole number of blocks; an unfilled one is left out."""
    data = text[: BLOCK * MOST_BLOCKS].encode("utf-8", "surrogatepass")
    hashes: list[int] = []
    last = b""
    for at in range(0, min(len(data), BLOCK * MOST_BLOCKS) - BLOCK + 1, BLOCK):
        last = hashlib.blake2b(last + data[at : at + BLOCK], digest_size=8).digest()
        hashes.append(int.from_bytes(last, "big"))
    return tuple(hashes)


class Prefixes:
    """The map, least recently used first out."""

    def __init__(self, most: int = MOST_ENTRIES) -> None:
        self._most = most
        self._recent: OrderedDict[tuple[int, str], None] = OrderedDict()
        self._holders: dict[int, dict[str, None]] = {}
        self._held: dict[str, dict[int, None]] = {}

    def __len__(self) -> int:
        return len(self._recent)

    def learn(self, worker_id: str, hashes: tuple[int, ...]) -> None:
        """The worker has these from now on."""
        for block in hashes:
            entry = (block, worker_id)
            if entry in self._recent:
                self._recent.move_to_end(entry)
                continue
            self._recent[entry] = None
            self._holders.setdefault(block, {})[worker_id] = None
            self._held.setdefault(worker_id, {})[block] = None
        while len(self._recent) > self._most:
            self._drop(*next(iter(self._recent)))

    def blocks(self, worker_id: str, hashes: tuple[int, ...]) -> int:
        """How many of these blocks, from the beginning, the worker is expected to know."""
        held = self._held.get(worker_id)
        if held:
            for n in range(len(hashes), 0, -1):
                if hashes[n - 1] in held:
                    return n
        return 0

    def holders(self, hashes: tuple[int, ...]) -> dict[str, int]:
        """Worker → blocks it knows, those who know most first, at most MOST_HOLDERS."""
        found: dict[str, int] = {}
        for n in range(len(hashes), 0, -1):
            for worker_id in islice(self._holders.get(hashes[n - 1], ()), MOST_HOLDERS):
                found.setdefault(worker_id, n)
            if len(found) >= MOST_HOLDERS:
                break
        return found

    def keep_only(self, worker_id: str, hashes: set[int]) -> None:
        """Forget what else the worker was thought to know."""
        for block in [b for b in self._held.get(worker_id, ()) if b not in hashes]:
            self._drop(block, worker_id)

    def gone(self, worker_id: str) -> None:
        """The worker and all it knew are gone."""
        self.keep_only(worker_id, set())

    def _drop(self, block: int, worker_id: str) -> None:
        del self._recent[block, worker_id]
        holders, held = self._holders[block], self._held[worker_id]
        del holders[worker_id], held[block]
        if not holders:
            del self._holders[block]
        if not held:
            del self._held[worker_id]
