"""Links that are lost and come back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.errors import ConnectionFailed, HostKeyChanged
from rbee.ssh.hosts import Hosts
from rbee.ssh.known import KnownHosts
from rbee.ssh.limits import Limits
from rbee.ssh.reconnect import Backoff, Link, LinkState
from rbee.ssh.session import Session
from tests.support.sshd import Sshd

LIMITS = Limits(tries=1, keepalive=0.2)


class Heard:
    """What a link told, to wait for."""

    def __init__(self) -> None:
        self.states: list[LinkState] = []
        self._changed = anyio.Event()

    def tell(self, state: LinkState) -> None:
        self.states.append(state)
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, wanted: Callable[[LinkState], bool]) -> LinkState:
        with anyio.fail_after(30):
            while not (self.states and wanted(self.states[-1])):
                await self._changed.wait()
        return self.states[-1]


def link(server: Sshd, tmp_path: Path, heard: Heard, **options: object) -> Link:
    async def use(session: Session) -> None:
        await session.run(["true"])

    known = KnownHosts(tmp_path / "kh")
    given: dict[str, object] = {
        "use": use, "limits": LIMITS, "backoff": Backoff(first=0.01), "measure_every": 0.05,
    }  # fmt: skip
    return Link(Hosts().find(server.address), known, heard.tell, **(given | options))  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_a_link_comes_back(server: Sshd, tmp_path: Path):
    heard, used = Heard(), list[Session]()
    ended: list[bool] = []

    async def use(session: Session) -> None:
        used.append(session)
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    async with anyio.create_task_group() as tasks:
        kept = link(server, tmp_path, heard, use=use)
        tasks.start_soon(kept.run)
        up = await heard.until(lambda state: state.up)
        assert up.latency is not None
        assert up.losses == 0
        assert kept.session is used[0]

        server.cut()
        again = await heard.until(lambda state: state.up and state.losses == 1)
        assert again.latency is not None
        down = [state for state in heard.states if not state.up]
        assert down[0].reason
        assert down[0].next_try is not None
        assert used[1] is kept.session
        assert ended == [True]

        server.freeze()
        await heard.until(lambda state: state.up and state.losses == 2)
        assert any(state.reason == "no answer any more" for state in heard.states)
        tasks.cancel_scope.cancel()
    assert kept.session is None


@pytest.mark.anyio
async def test_a_machine_that_is_off_is_asked_again(server: Sshd, tmp_path: Path):
    heard = Heard()
    async with anyio.create_task_group() as tasks:
        kept = link(server, tmp_path, heard, backoff=Backoff(first=1000.0, most=1000.0))
        await anyio.to_thread.run_sync(server.stop)
        tasks.start_soon(kept.run)
        down = await heard.until(lambda state: not state.up)
        assert isinstance(down.error, ConnectionFailed)
        assert down.next_try is not None
        assert down.next_try >= 500
        await anyio.to_thread.run_sync(server.start)
        kept.retry()
        await heard.until(lambda state: state.up)
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_changed_key_is_not_tried_again_by_itself(server: Sshd, tmp_path: Path):
    heard = Heard()
    async with anyio.create_task_group() as tasks:
        kept = link(server, tmp_path, heard)
        await anyio.to_thread.run_sync(server.change_host_key)
        tasks.start_soon(kept.run)
        down = await heard.until(lambda state: not state.up)
        assert isinstance(down.error, HostKeyChanged)
        assert down.next_try is None
        kept.retry()
        await heard.until(lambda _: len(heard.states) == 2)
        assert isinstance(heard.states[1].error, HostKeyChanged)
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_what_the_use_of_a_link_raises_is_raised(server: Sshd, tmp_path: Path):
    async def use(session: Session) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await link(server, tmp_path, Heard(), use=use).run()


@given(st.lists(st.floats(0, 1), min_size=12, max_size=12))
@settings(deadline=None, max_examples=50)
def test_waits_grow_and_stay_bounded(values: list[float]):
    drawn = iter(values)
    backoff = Backoff(rand=lambda: next(drawn))
    waits = [backoff.take() for _ in range(11)]
    assert 0.5 <= waits[0] <= 1.5
    assert all(0.5 * min(60, 2**n) <= wait <= 60 for n, wait in enumerate(waits))
    backoff.reset()
    assert backoff.take() <= 1.5
