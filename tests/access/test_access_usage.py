"""What was used: added up, kept, bounded, forgotten."""

from __future__ import annotations

import stat
import time
from collections.abc import Mapping
from pathlib import Path

import anyio
import anyio.from_thread
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.access import usage as module
from rbee.access.usage import DAY, OTHER, Cell, Counts, Usage, app_of, day_of
from rbee.errors import InternalError

pytestmark = pytest.mark.anyio
NOW = time.time()


def add(usage: Usage, *, app: str = "app", model: str = "m", days_ago: float = 0) -> None:
    usage.add(key="anna", app=app, model=model, tokens_in=3, tokens_out=4, utc=NOW - days_ago * DAY)


async def test_counts_add_up_over_queens_and_days(tmp_path: Path) -> None:
    file = tmp_path / "usage.db"
    first = Usage(file, 90)
    add(first)
    add(first, days_ago=2)
    await first.flush()
    add(first)
    first.close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    second = Usage(file, 90)
    add(second)
    (row,) = (await second.report(NOW - 5 * DAY)).rows
    assert (row.key, row.app, row.model) == ("anna", "app", "m")
    assert (row.requests, row.tokens_in, row.tokens_out) == (4, 12, 16)
    assert (row.first_day, row.last_day) == (day_of(NOW - 2 * DAY), day_of(NOW))
    (today,) = (await second.report(NOW)).rows
    assert today.requests == 3
    second.close()


async def test_old_days_are_forgotten_and_none_are_kept_when_none_may(tmp_path: Path) -> None:
    usage = Usage(tmp_path / "usage.db", 10)
    add(usage, days_ago=20)
    add(usage)
    await usage.flush()
    assert [row.requests for row in (await usage.report(0)).rows] == [1]
    usage.days = 0
    add(usage)
    usage.days = 10
    assert [row.requests for row in (await usage.report(0)).rows] == [1]
    usage.close()


async def test_a_flood_of_apps_takes_bounded_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_A_DAY", 5)
    usage = Usage(tmp_path / "usage.db", 90)
    for number in range(50):
        add(usage, app=f"app{number}")
    rows = (await usage.report(NOW)).rows
    assert len(rows) == 6
    assert {row.app: row.requests for row in rows}[OTHER] == 45
    assert sum(row.requests for row in rows) == 50
    usage.close()
    second = Usage(tmp_path / "usage.db", 90)
    add(second, app="app0")
    await second.flush()
    for number in range(50, 60):
        add(second, app=f"app{number}")
    rows = (await second.report(NOW)).rows
    assert len(rows) == 6, "those of the queen before count, too"
    counts = {row.app: row.requests for row in rows}
    assert (counts[OTHER], counts["app0"]) == (55, 2)
    second.close()


async def test_what_cannot_be_kept_now_is_kept_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "usage.db"
    file.mkdir()
    usage = Usage(file, 90)
    add(usage)
    write = usage._write

    def asked_meanwhile(fresh: Mapping[Cell, Counts]) -> None:
        anyio.from_thread.run_sync(add, usage)
        write(fresh)

    with monkeypatch.context() as patched:
        patched.setattr(usage, "_write", asked_meanwhile)
        with pytest.raises(InternalError):
            await usage.flush()
    file.rmdir()
    assert [row.requests for row in (await usage.report(NOW)).rows] == [2]
    usage.close()


@pytest.mark.parametrize("written", [False, True])
async def test_a_flush_that_is_cancelled_counts_each_request_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    usage = Usage(tmp_path / "usage.db", 90)
    add(usage)
    take, write = usage._take, usage._write

    def before_the_disk() -> dict[Cell, Counts]:
        scope.cancel()
        return take()

    def at_the_disk(fresh: Mapping[Cell, Counts]) -> None:
        anyio.from_thread.run_sync(scope.cancel)
        write(fresh)

    with monkeypatch.context() as patched, anyio.CancelScope() as scope:
        if written:
            patched.setattr(usage, "_write", at_the_disk)
        else:
            patched.setattr(usage, "_take", before_the_disk)
        await usage.flush()
    assert [row.requests for row in (await usage.report(NOW)).rows] == [1]
    usage.close()


@pytest.mark.parametrize(
    ("agent", "app"),
    [
        ("OpenAI/Python 1.99.1", "OpenAI"),
        ("AsyncOpenAI/Python 1.2", "AsyncOpenAI"),
        ("rbee/0.1.0", "rbee"),
        ("curl/8.5.0", "curl"),
        ("Mozilla/5.0 (X11; Linux x86_64)", "Mozilla"),
        ("ollama-python/0.5 (x86_64 linux) Python/3.11", "ollama-python"),
        ("", "unknown"),
        ("\x1b[31mred", "unknown"),
        ("<script>", "unknown"),
    ],
)
def test_an_apps_name(agent: str, app: str) -> None:
    assert app_of(agent) == app


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=300))
def test_an_apps_name_is_short_and_plain(agent: str) -> None:
    name = app_of(agent)
    assert 1 <= len(name) <= 40
    assert name.isascii()
    assert name.isprintable()
