"""A model from one hive to another, piece by piece through the queen.

Owns the order of the pieces: one is read while the one before it is written, each is checked by
its hash, tried again when it fails, and a copy that was broken off goes on where it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import anyio
import anyio.abc

from rbee.daemons.queen.model_links import CHUNK
from rbee.errors import BadGateway, Conflict, DownloadFailed, RbeeError
from rbee.protocol.models import DownloadOrder, PlannedFile, TransferState

if TYPE_CHECKING:
    from rbee.daemons.queen.links import HiveLink
    from rbee.protocol.hives import ModelInfo
    from rbee.protocol.models import CatalogueEntry, DownloadInfo

log = logging.getLogger("rbee.queen")
T = TypeVar("T")
PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds between the six tries of a piece."""


class _Piece(NamedTuple):
    file: str
    offset: int
    length: int


def order_of(entry: CatalogueEntry) -> DownloadOrder:
    """What the other hive is to receive."""
    files = [PlannedFile(name=f.name, size=f.size, sha256=f.sha256) for f in entry.files]
    return DownloadOrder(
        ref=entry.ref,
        model_id=entry.id,
        asked=entry.asked[0] if entry.asked else entry.ref,
        revision=entry.revision or "",
        format=entry.format,
        files=files,
    )


async def copy(
    source: HiveLink,
    target: HiveLink,
    entry: CatalogueEntry,
    copied: Callable[[int, int], None],
) -> ModelInfo:
    """Bring the model there; `copied` hears of bytes there and bytes in all.

    Raises what either hive refuses, DownloadFailed when a piece fails six times.
    """
    order = order_of(entry)
    if not order.files:
        raise BadGateway(f"hive {source.name} does not say which files {entry.id} has")
    try:
        return await _copy(source, target, order, copied)
    except (Conflict, DownloadFailed) as exc:
        if "offsets" not in exc.details and not isinstance(exc, DownloadFailed):
            raise
        log.info("the copy is taken up again: %s", exc.message)  # what was wrong is gone there
    return await _copy(source, target, order, copied)


async def _copy(
    source: HiveLink,
    target: HiveLink,
    order: DownloadOrder,
    copied: Callable[[int, int], None],
) -> ModelInfo:
    receipt = await target.models.receive(order)
    there = {f.name: min(receipt.offsets.get(f.name, 0), f.size) for f in order.files}
    done = sum(there.values())
    copied(done, order.size)
    send, receive = anyio.create_memory_object_stream[tuple[_Piece, bytes]](0)
    failed: list[RbeeError] = []

    async def read(tasks: anyio.abc.TaskGroup) -> None:
        async with send:
            try:
                for piece in _pieces(order, there):
                    data = await _tried(_reading(source, order.model_id, piece))
                    if len(data) != piece.length:
                        raise DownloadFailed(
                            f"{piece.file} on {source.name} ends after"
                            f" {piece.offset + len(data)} bytes",
                            action=f"rbee model verify {order.model_id} --hive {source.name}",
                        )
                    await send.send((piece, data))
            except anyio.BrokenResourceError:
                return  # who writes has failed, and says why
            except RbeeError as exc:
                failed.append(exc)
                tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read, tasks)
        try:
            async with receive:
                async for piece, data in receive:
                    await _tried(_writing(target, receipt.download_id, piece, data))
                    done += piece.length
                    copied(done, order.size)
        except RbeeError as exc:
            failed.append(exc)
            tasks.cancel_scope.cancel()
    if failed:
        raise failed[0]
    return await _finished(target, receipt.download_id, order)


async def _finished(target: HiveLink, download_id: str, order: DownloadOrder) -> ModelInfo:
    info: DownloadInfo = await target.models.finish(download_id)
    if info.state is TransferState.FAILED:
        raise RbeeError.from_body({"error": info.error})
    # a path means another file there, or none
    by_path = order.ref.startswith("file:")
    return await target.resolve(order.model_id if by_path else order.ref)


def _pieces(order: DownloadOrder, there: dict[str, int]) -> Iterator[_Piece]:
    for file in order.files:
        for offset in range(there[file.name], file.size, CHUNK):
            yield _Piece(file.name, offset, min(CHUNK, file.size - offset))


def _reading(source: HiveLink, model: str, piece: _Piece) -> Callable[[], Awaitable[bytes]]:
    return lambda: source.models.content(model, piece.file, piece.offset, piece.length)


def _writing(
    target: HiveLink, download_id: str, piece: _Piece, data: bytes
) -> Callable[[], Awaitable[None]]:
    return lambda: target.models.put_chunk(download_id, piece.file, piece.offset, data)


async def _tried(call: Callable[[], Awaitable[T]]) -> T:
    """Its answer; what is not the caller's fault is tried again."""
    for pause in PAUSES:
        try:
            return await call()
        except RbeeError as exc:
            if exc.status < 500 or exc.status == 507:
                raise
            log.info("a piece is tried again: %s", exc.message)
        await anyio.sleep(pause)
    return await call()
