"""The relay's own HTTP client against a real worker process."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import msgspec
import pytest
from raw_server import (
    LIMIT,
    client,
)
from worker_process import TOKEN, HiveStandIn, WorkerProcess

from rbee.daemons.queen.upstream import (
    Broken,
    Unreachable,
)
from rbee.daemons.queen.worker_events import WorkerEvents


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


def execute(prompt: str, request_id: str) -> bytes:
    return msgspec.json.encode({"request_id": request_id, "prompt": prompt})


HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}


@pytest.mark.anyio
async def test_a_worker_answers_and_notices_who_leaves(tmp_path: Path) -> None:
    with HiveStandIn() as hive, WorkerProcess(hive.url, tmp_path / "log", slots=8) as worker:
        await anyio.to_thread.run_sync(hive.wait_for_state, "idle")
        url = f"{worker.url}/v1/execute"
        async with client() as up:
            texts: dict[int, str] = {}

            async def ask(number: int) -> None:
                events = WorkerEvents()
                tokens: list[str] = []
                ends: list[str] = []

                def take(data: bytes) -> None:
                    for event in events.feed(data):
                        if event.token:
                            tokens.append(msgspec.json.decode(event.token))
                        else:
                            ends.append(event.end().finish_reason)

                body = execute(f'@repeat=40 {number} "wörds\\ ', f"r-{number}")
                reply = await up.post(url, body, HEADERS, on_data=take, silence=LIMIT)
                assert (reply.status, ends, events.ended) == (200, ["stop"], True)
                texts[number] = "".join(tokens)

            with anyio.fail_after(LIMIT):
                async with anyio.create_task_group() as tasks:
                    for number in range(8):
                        tasks.start_soon(ask, number)
            for number, text in texts.items():
                assert text.split() == [str(number), '"wörds\\'] * 40

            body = execute("@hang_after=1 a b", "r-hang")
            with anyio.fail_after(LIMIT), anyio.CancelScope() as scope:
                await up.post(url, body, HEADERS, on_data=lambda _: scope.cancel(), silence=LIMIT)
            assert scope.cancelled_caught
            reply = await up.post(url, b"{", HEADERS, silence=LIMIT)
            assert (reply.status, reply.headers["content-type"]) == (400, "application/json")
            beats = len(hive.beats)
            await anyio.to_thread.run_sync(
                hive.wait, lambda seen: len(seen) > beats and seen[-1]["slots_busy"] == 0
            )


@pytest.mark.anyio
async def test_a_worker_that_dies_in_mid_stream(tmp_path: Path) -> None:
    with HiveStandIn() as hive, WorkerProcess(hive.url, tmp_path / "log") as worker:
        await anyio.to_thread.run_sync(hive.wait_for_state, "idle")
        seen: list[bytes] = []
        async with client() as up:
            body = execute("@delay=20 @exit_after=3 a b c d", "r-1")
            with anyio.fail_after(LIMIT), pytest.raises(Broken) as caught:
                await up.post(
                    f"{worker.url}/v1/execute", body, HEADERS, on_data=seen.append, silence=LIMIT
                )
            assert caught.value.begun
            assert b'"token":"a' in b"".join(seen)
            with pytest.raises(Unreachable):
                await up.post(f"{worker.url}/v1/execute", body, HEADERS, silence=LIMIT)
