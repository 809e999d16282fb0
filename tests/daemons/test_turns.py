"""Operations on machines have their turns, and a queen that goes waits for what they clean up."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from rbee.daemons.queen.turns import Turns
from rbee.errors import Conflict

pytestmark = pytest.mark.anyio


async def test_one_at_a_time_for_each_machine() -> None:
    turns = Turns()
    with turns.of("attic"):
        with pytest.raises(Conflict, match="attic"), turns.of("attic"):
            pass
        with turns.of("bench"):
            pass
    with pytest.raises(KeyError), turns.of("attic"):
        raise KeyError
    with turns.of("attic"):
        pass
    assert await turns.over(0)


async def test_what_was_cancelled_is_over_when_it_has_cleaned_up() -> None:
    turns, began, cleaned = Turns(), anyio.Event(), anyio.Event()

    async def install() -> None:
        with turns.of("attic"):
            try:
                began.set()
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.lowlevel.checkpoint()
                    cleaned.set()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(install)
            await began.wait()
            assert not await turns.over(0)
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                assert await turns.over(20)
                assert cleaned.is_set()
