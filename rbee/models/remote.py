"""Looks into files that are far away: a model's header over HTTP Range, before it is fetched.

Owns reading pieces of a planned file and telling a ModelInfo from them. Writes nothing to the disk,
sends no secret (the addresses of an order need none) and reads no more than 64 MiB of a file.
Blocks: for worker threads; every read has a limit of time.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from rbee.errors import (
    BadGateway,
    ConnectionTimeout,
    Forbidden,
    ModelCorrupted,
    ModelNotFound,
    RateLimited,
    RbeeError,
)
from rbee.models import gguf, hub_files, safetensors, safetensors_folder
from rbee.models.describe import info_of
from rbee.protocol.hives import ModelInfo
from rbee.protocol.models import DownloadOrder, PlannedFile

if TYPE_CHECKING:
    import httpx

BOUND = 64 << 20
"""Bytes read of one file at most. The largest headers known have some 20 MB."""
_ALL = 256 << 20
_FIRST, _FIRST_OF_SHARD, _LARGEST = 1 << 20, 128 << 10, 4 << 20
_CONFIG = 4 << 20
_SENTENCES = frozenset({"modules.json", "sentence_bert_config.json"})
_SILENCE, _PIECE_SECONDS, _ALL_SECONDS = 15.0, 30.0, 90.0
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


def look(order: DownloadOrder) -> ModelInfo:
    """What is known of a model from its header: id and ref are the order's, `path` is "".

    Raises ModelCorrupted, ModelIncompatible, ConnectionTimeout, RateLimited, BadGateway; Forbidden
    for an address that has expired (`details.expired`).
    """
    import httpx  # 60 ms

    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs signed addresses
    limits = httpx.Timeout(_SILENCE, connect=5.0)
    with httpx.Client(timeout=limits, follow_redirects=True, max_redirects=5) as client:
        trip = Trip(client)
        return _gguf(trip, order) if order.format == "gguf" else _safetensors(trip, order)


class Trip:
    """What one look may cost, over all files."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self._end = time.monotonic() + _ALL_SECONDS
        self._left = _ALL

    def spend(self, size: int, name: str) -> None:
        """Raises when there is no time for more bytes, or when it would be too many."""
        if time.monotonic() > self._end:
            raise ConnectionTimeout(
                f"the header of {name} was not here after {_ALL_SECONDS:.0f} s",
                action="Try again; the connection to the hub is slow.",
            )
        self._left -= size
        if self._left < 0:
            raise ModelCorrupted(f"the model's headers have more than {_ALL >> 20} MiB")


class Ranged:
    """A file far away that reads and seeks, by windows of `first` bytes, then up to 4 MiB.

    Once the hub has led to where the bytes are, it is not asked again.
    """

    def __init__(self, trip: Trip, file: PlannedFile, *, first: int = _FIRST) -> None:
        self._trip, self._file = trip, file
        self._url = file.url
        self._at = self._start = 0
        self._window = b""
        self._next = first
        self.fetched = 0
        """Bytes so far."""

    def seek(self, offset: int, /) -> int:
        """Stand at `offset` from the start."""
        self._at = offset
        return offset

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes from here; none at the end."""
        if self._file.content is not None:
            data = self._file.content[self._at : self._at + size]
            self._at += len(data)
            return data
        if not self._start <= self._at < self._start + len(self._window):
            if self._at >= self._file.size:
                return b""
            self._fetch(max(self._next, min(size, _LARGEST)))
            self._next = min(self._next * 2, _LARGEST)
        begin = self._at - self._start
        data = self._window[begin : begin + size]
        self._at += len(data)
        return data

    def exactly(self, size: int) -> bytes:
        """That many bytes. Raises ModelCorrupted when the file ends before."""
        out = bytearray()
        while len(out) < size:
            piece = self.read(size - len(out))
            if not piece:
                raise ModelCorrupted(f"{self._file.name} ends after {self._at} bytes")
            out += piece
        return bytes(out)

    def _fetch(self, size: int) -> None:
        size = min(size, self._file.size - self._at)
        if self.fetched + size > BOUND:
            raise ModelCorrupted(
                f"{self._file.name}: its header has more than {BOUND >> 20} MiB; no model's has"
            )
        self._trip.spend(size, self._file.name)
        self._window = _pieces(self._trip.client, self, self._at, size)
        self._start = self._at
        self.fetched += size

    def request(self, start: int, size: int) -> tuple[str, dict[str, str]]:
        """Where to ask for bytes, and how."""
        wanted = f"bytes={start}-{start + size - 1}"
        return self._url, {"Range": wanted, "Accept-Encoding": "identity"}

    def accept(self, reply: httpx.Response, start: int, size: int) -> None:
        """Raises unless the reply is those bytes of that file. Remembers where they are."""
        _check_status(reply, self._file.name)
        match = _CONTENT_RANGE.fullmatch(reply.headers.get("content-range", ""))
        plain = reply.headers.get("content-encoding", "identity") == "identity"
        if reply.status_code == 206 and match is not None and plain:
            told = tuple(int(number) for number in match.groups())
            if told != (start, start + size - 1, self._file.size):
                raise _strange(
                    f"{reply.url.host} sent bytes {told[0]} to {told[1]} of {told[2]} for"
                    f" {self._file.name}, which has {self._file.size}"
                )
        elif reply.status_code != 200 or start > 0 or not plain:
            raise _strange(f"{reply.url.host} does not send parts of {self._file.name}")
        self._url = str(reply.url)


def _pieces(client: httpx.Client, source: Ranged, start: int, size: int) -> bytes:
    import httpx

    url, headers = source.request(start, size)
    out, end = bytearray(), time.monotonic() + _PIECE_SECONDS
    try:
        with client.stream("GET", url, headers=headers) as reply:
            host = reply.url.host
            source.accept(reply, start, size)
            for piece in reply.iter_raw():
                out += piece
                if len(out) >= size:
                    break
                if time.monotonic() > end:
                    raise ConnectionTimeout(
                        f"{host} sent {len(out)} of {size} bytes in {_PIECE_SECONDS:.0f} s",
                        action="Try again; the connection to the hub is slow.",
                    )
    except (httpx.TimeoutException, httpx.ConnectError) as exc:
        raise ConnectionTimeout(
            f"{httpx.URL(url).host} cannot be reached, or did not answer in {_SILENCE:.0f} s"
            f" ({type(exc).__name__})",
            action="Check the network and HTTPS_PROXY where the queen runs, and try again.",
        ) from None  # the cause may hold a signed address
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as exc:
        raise BadGateway(
            f"the connection to the hub's files broke off ({type(exc).__name__})",
            action="Check the network and HTTPS_PROXY where the queen runs, and try again.",
        ) from None
    if len(out) < size:
        raise _strange(f"{host} sent {len(out)} of {size} bytes it had promised")
    return bytes(out[:size])


def _check_status(reply: httpx.Response, name: str) -> None:
    status, host = reply.status_code, reply.url.host
    if status in (401, 403, 410):
        raise Forbidden(
            f"{host} does not give out {name} any more (status {status})",
            action="Ask again: its address was good for some time only.",
            expired=True,
        )
    if status == 404:
        raise ModelNotFound(f"{name} is not on the hub any more", action="Ask again.")
    if status == 429:
        told = reply.headers.get("retry-after", "")
        seconds = min(3600, max(1, int(told[:6]))) if told.isdecimal() and told.isascii() else 60
        raise RateLimited(
            f"{host} wants no more requests for {seconds} s",
            action=f"Wait {seconds} s and try again.",
            retry_after=seconds,
        )
    if status == 416:
        raise _strange(f"{name} on {host} is shorter than the hub says")
    if status >= 300:
        raise _strange(f"{host} answered with status {status}")


def _strange(message: str) -> BadGateway:
    return BadGateway(message, action="Try again in a minute; check HF_ENDPOINT if it is set.")


def _gguf(trip: Trip, order: DownloadOrder) -> ModelInfo:
    file = order.files[0]
    header = gguf.read_from(Ranged(trip, file), name=file.name, size=file.size)
    digest = f"sha256:{file.sha256}" if file.sha256 else None
    info = info_of(header, name=file.name, ref=order.ref, path="", size=file.size, digest=digest)
    return msgspec.structs.replace(info, id=order.model_id)


def _safetensors(trip: Trip, order: DownloadOrder) -> ModelInfo:
    files = {file.name: file for file in order.files}
    config = safetensors_folder.parse_config(_whole(trip, files, safetensors_folder.CONFIG))
    shards: Mapping[str, set[str]]
    if hub_files.INDEX in files:
        shards = safetensors_folder.parse_index(_whole(trip, files, hub_files.INDEX, BOUND))
    else:
        shards = {name: set[str]() for name in files if name.endswith(".safetensors")}
    if missing := sorted(set(shards) - set(files)):
        raise ModelCorrupted(
            f"{order.model_id}: its index names {missing[0][:80]!r}, which the hub does not have"
        )
    heads = _each(sorted(shards), lambda name: _header(trip, files[name]))
    for name, header in heads.items():
        if absent := shards[name] - {tensor.name for tensor in header.tensors}:
            raise ModelCorrupted(
                f"{name} has no tensor {min(absent)[:64]!r}, which its index names"
            )
    return safetensors_folder.describe(
        config,
        safetensors_folder.add_up(t for header in heads.values() for t in header.tensors),
        name=order.model_id,
        path="",
        ref=order.ref,
        size=sum(files[name].size for name in shards),
        sentences=bool(_SENTENCES & set(files)),
    )


def _whole(trip: Trip, files: Mapping[str, PlannedFile], name: str, limit: int = _CONFIG) -> bytes:
    if name not in files:
        raise ModelCorrupted(f"the model has no {name}")
    file = files[name]
    if file.size > limit:
        raise ModelCorrupted(f"{name} has {file.size} bytes; at most {limit} are read")
    return Ranged(trip, file).exactly(file.size)


def _header(trip: Trip, file: PlannedFile) -> safetensors.Header:
    source = Ranged(trip, file, first=_FIRST_OF_SHARD)
    start = source.exactly(min(safetensors.LENGTH, file.size))
    length = safetensors.header_length(start, file.size, file.name)
    return safetensors.parse(source.exactly(length), file.size, file.name)


def _each(
    names: list[str], read: Callable[[str], safetensors.Header]
) -> dict[str, safetensors.Header]:
    """Of all shards, four at a time; the first error ends it."""
    with ThreadPoolExecutor(4, thread_name_prefix="hub-look") as pool:
        waiting = {name: pool.submit(read, name) for name in names}
        try:
            return {name: future.result() for name, future in waiting.items()}
        except RbeeError:
            pool.shutdown(cancel_futures=True)
            raise
