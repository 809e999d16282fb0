"""The way to the queen: who waits for her gets her."""

from __future__ import annotations

import anyio
import colony_data as data
import pytest
from colony_double import ColonyDouble
from keeper_double import KeeperDouble
from screen_driver import Clock

from rbee.client import QueenClient
from rbee.errors import MissingApiKey
from rbee.protocol.base import Wire
from rbee.tui.link import QueenLink
from rbee.tui.store import ColonyStore

pytestmark = pytest.mark.anyio


async def test_who_waits_gets_her_though_the_first_try_fails() -> None:
    failed, got = anyio.Event(), list[QueenClient]()
    with ColonyDouble(data.full()) as double:
        double.closed = MissingApiKey("not without a key")
        store = ColonyStore(clock=Clock())

        def changed(name: str, payload: Wire | None) -> None:
            if store.error is not None:
                failed.set()

        link = QueenLink(KeeperDouble(double.url), store, changed, version=double.version)

        async def wait() -> None:
            got.append(await link.arrived())
            tasks.cancel_scope.cancel()

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                tasks.start_soon(link.run)
                await failed.wait()
                double.closed = None
                link.hurry()
    assert [client.url for client in got] == [double.url]
