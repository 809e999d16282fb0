"""The screen of logs against the double: what is merged, filtered, found, kept and closed."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import colony_data as data
import machine_data as m
import pytest
from colony_data import NOW
from colony_double import ColonyDouble
from screen_driver import app_for, connected, repaint, text_of, until
from textual.pilot import Pilot

from rbee.errors import HiveOffline, NotFound
from rbee.protocol.colony import HiveGone, Narration, WorkerGone
from rbee.tui import log_reader
from rbee.tui.app import RbeeApp
from rbee.tui.logbook import Level, Shown
from rbee.tui.screens.dashboard import Dashboard
from rbee.tui.screens.logs import Logs

SIZES = [pytest.param((80, 24), id="80x24"), pytest.param((160, 45), id="160x45")]
TENSORS = "llm_load_tensors: offloaded 29/29 layers"
LONG = f"{TENSORS} of a model whose name is long enough that the line leaves a narrow panel"


def stamp(seconds: float, part: str = "") -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(NOW + seconds)) + part


def written() -> dict[str, list[str]]:
    """What the colony of `machine_data` has in its logs."""
    story = "queen: starting w-05 for phi-4-mini on mule cuda:1: least loaded, 14.9G free"
    return {
        "queen": [
            f"{stamp(-9)} INFO    {story} correlation_id=91c2",
            f"{stamp(-9)} DEBUG   3 candidates, 1 fits",
            f"{stamp(-2)} WARNING the policy took 6 ms",
        ],
        "mule": [f"{stamp(-6)} INFO    w-05 has pid 4711"],
        "attic": [f"{stamp(-1)} WARNING w-04 exited 137; restart 1/5 in 2 s"],
        "pi-hive": [],
        "w-01": [],
        "w-02": [],
        "w-03": [],
        "w-04": [f"{stamp(-60, ',004')} INFO rbee.worker loading", "CUDA error: out of memory"],
        "w-05": [
            f"{stamp(-8, ',120')} INFO rbee.worker loading phi-4-mini",
            "\x1b[32mggml_cuda_init\x1b[0m: found 2 CUDA devices",
            LONG,
        ],
        "w-06": [],
    }


@pytest.fixture
def colony() -> Iterator[ColonyDouble]:
    away = HiveOffline("hive barn does not answer: no route to host", action="rbee hive check barn")
    off = HiveOffline("hive shed was stopped", action="rbee hive start shed")
    with ColonyDouble(
        m.full(), after=data.telemetry(), logs=written(), unreadable={"barn": away, "shed": off}
    ) as double:
        yield double


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be read is tried again at once."""
    monkeypatch.setattr(log_reader, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(log_reader, "LOOK_SECONDS", 0.05)


async def logs(pilot: Pilot[Any]) -> Logs:
    """The screen, with all that was written in the book."""
    app = await connected(pilot)
    await pilot.press("7")
    await until(pilot, lambda: isinstance(app.screen, Logs))
    screen = app.screen
    assert isinstance(screen, Logs)
    return screen


async def filled(pilot: Pilot[Any]) -> Logs:
    screen = await logs(pilot)
    texts = {"the policy took 6 ms", LONG, "CUDA error: out of memory", "w-05 has pid 4711"}
    texts |= {"w-04 exited 137; restart 1/5 in 2 s"}
    await until(pilot, lambda: texts <= {entry.text for entry in screen.book.entries}, "the logs")
    await until(pilot, lambda: {"barn", "shed"} == set(screen.reader.trouble), "the reasons")
    repaint(screen.rbee)
    await pilot.pause()
    return screen


def words(app: RbeeApp) -> str:
    return "\n".join(text_of(app))


@pytest.mark.parametrize("size", SIZES)
def test_logs_full(snap_compare: Any, colony: ColonyDouble, size: tuple[int, int]) -> None:
    async def before(pilot: Pilot[Any]) -> None:
        screen = await filled(pilot)
        await pilot.press("v", "slash", *"cuda", "enter")
        await until(pilot, lambda: screen.panel.matches)
        repaint(screen.rbee)
        await pilot.pause()

    assert snap_compare(app_for(colony), terminal_size=size, run_before=before)


@pytest.mark.parametrize("size", SIZES)
def test_logs_empty(snap_compare: Any, size: tuple[int, int]) -> None:
    snapshot = data.quiet()
    snapshot.narration.clear()
    silent = NotFound(
        "the queen keeps no log: she writes to her terminal", action="rbee queen start"
    )

    async def before(pilot: Pilot[Any]) -> None:
        screen = await logs(pilot)
        await until(pilot, lambda: screen.reader.trouble)
        screen.choose("pi-hive")
        await pilot.press("v")
        repaint(screen.rbee)
        await pilot.pause()

    with ColonyDouble(snapshot, unreadable={"queen": silent}) as double:
        assert snap_compare(app_for(double), terminal_size=size, run_before=before)


@pytest.mark.anyio
async def test_levels_finding_pausing_following_copying_and_saving(
    colony: ColonyDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app = app_for(colony)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        screen = await filled(pilot)
        panel = screen.panel
        texts = [entry.text for entry in panel.entries()]
        assert texts.index("CUDA error: out of memory") < texts.index("w-05 has pid 4711")
        starting = [text for text in texts if text.startswith("starting w-05")]
        assert len(starting) == 1, "narration that is also in the queen's log is told once"
        assert TENSORS not in words(app)
        await pilot.press("v")
        assert screen.shown is Shown.ALL
        assert "out  ggml_cuda_init: found" in words(app)
        assert "…" in words(app), "a long line is clipped"
        assert "3 candidates" in words(app)
        await pilot.press("w")
        ends = [line.rstrip(" ┃") for line in text_of(app)]
        assert any(line.endswith("panel") for line in ends), "wrapped, all of it is there"
        await pilot.press("v")
        assert screen.shown is Shown.NARRATION
        assert all(entry.told for entry in panel.entries())
        await pilot.press("v", "v")

        await pilot.press("slash", *"CUDA", "enter")
        assert panel.has_focus
        assert len(panel.matches) == 3, "also the device in the queen's words"
        found = panel.current
        assert found is not None
        assert "2 of 3" in words(app) or "3 of 3" in words(app)
        await pilot.press("n")
        other = panel.current
        assert other is not found
        await pilot.press("N")
        assert panel.current is found
        colony.push("narration", Narration(at=NOW, source="mule", message="one more cuda"))
        await until(pilot, lambda: len(panel.matches) == 4)
        assert panel.current is found, "what comes does not move the cursor"
        await pilot.press("escape")
        assert not panel.matches

        await pilot.press("f")
        assert panel.following
        await pilot.press("space")
        colony.logs["mule"].append(f"{stamp(1)} INFO    meanwhile")
        await until(pilot, lambda: "paused, 1 came" in words(app))
        assert "meanwhile" not in [entry.text for entry in panel.entries()]
        await pilot.press("space")
        assert panel.entries()[-1].text == "meanwhile"
        await pilot.press("k", "k")
        assert not panel.following
        await pilot.press("end")
        assert not panel.following
        assert "follow off" in words(app)
        await pilot.press("end")
        assert panel.following

        await pilot.press("y")
        assert app.clipboard == "meanwhile"
        await pilot.press("Y")
        assert app.clipboard == "rbee logs --hive mule --follow"
        for count in (1, 2):
            await pilot.press("ctrl+s")
            await until(pilot, lambda: len(os.listdir(tmp_path)) == count, "a file")  # noqa: B023
        first, second = (tmp_path / name for name in sorted(os.listdir(tmp_path)))
        assert first.read_text() == second.read_text()
        assert {path.stat().st_mode & 0o777 for path in (first, second)} == {0o600}
        assert len(first.read_text().splitlines()) == panel.count
        await until(pilot, lambda: "lines saved to" in words(app))
        shutil.rmtree(tmp_path)
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "Start rbee in" in words(app), "the toast")


@pytest.mark.anyio
async def test_what_comes_in_pieces_and_late_stands_as_if_it_had_come_at_once() -> None:
    chance = random.Random(7)
    words = ["short", "cuda " * 30, "a wide 漢字 line " * 9]
    with ColonyDouble(data.quiet()) as double:
        async with app_for(double).run_test(size=(80, 24)) as pilot:
            screen = await logs(pilot)
            await pilot.press("v", "w")
            panel = screen.panel
            panel.find("cuda")
            for _ in range(40):
                for _ in range(chance.randrange(60)):
                    level, late = chance.choice(list(Level)), chance.choice([0, 0, 0, 90.0])
                    at = NOW + screen.book.dropped + len(screen.book.entries) - late
                    screen.book.add(
                        at, chance.choice(["w-01", "queen"]), level, chance.choice(words)
                    )
                screen.draw()
            rows, matches, count = list(panel.rows), list(panel.matches), panel.count
            assert len(rows) > count > 900
            assert panel.following
            assert panel.scroll_offset.y == panel.max_scroll_y
            screen.book.generation += 1
            screen.draw()
            assert (panel.rows, panel.matches, panel.count) == (rows, matches, count)
            await pilot.press("g", "pagedown", "shift+pagedown", "shift+pageup")
            standing, top = panel.current, panel.scroll_offset.y
            screen.book.add(NOW - 900, "queen", Level.INFO, "older than all")
            screen.draw()
            assert panel.current is standing
            assert panel.scroll_offset.y == top + 1, "what is looked at does not move"
            await pilot.resize_terminal(160, 45)
            await until(pilot, lambda: panel.fits() and len(panel.rows) < len(rows))
            assert panel.current is standing
            await pilot.press("w")
            assert len(panel.rows) == count + 1


@pytest.mark.anyio
async def test_sources_come_back_and_a_hidden_screen_reads_nothing(colony: ColonyDouble) -> None:
    app = app_for(colony)
    async with app.run_test(size=(160, 45)) as pilot:
        screen = await filled(pilot)
        assert "no route to host" in words(app)
        await pilot.press("tab")
        assert screen.tree_panel.has_focus
        keys = [row.key for row in screen.tree_panel.rows]
        await pilot.press(*["j"] * keys.index("barn"), "space")
        assert screen.tree_panel.chosen == "barn"
        assert screen.frozen is None, "in the tree, space chooses"
        screen.book.entries[:] = [e for e in screen.book.entries if e.source != "barn"]
        screen.book.generation += 1
        repaint(app)
        await pilot.pause()
        assert "rbee hive check barn" in words(app), "what to do stands where its lines would"
        del colony.unreadable["barn"]
        colony.logs["barn"] = ["INFO back"]
        await until(pilot, lambda: "barn" not in screen.reader.trouble)
        await until(pilot, lambda: [e.text for e in screen.panel.entries()] == ["back"])

        await pilot.press("1")
        await until(pilot, lambda: isinstance(app.screen, Dashboard))
        await until(pilot, lambda: not [w for w in screen.workers if w.group == "logs"])
        asked = len(colony.asked)
        colony.logs["barn"] += ["INFO back", "INFO once more"]
        app.store.say("barn", "told meanwhile")
        await pilot.pause(0.2)
        assert len(colony.asked) == asked
        await pilot.press("7")
        await until(pilot, lambda: len(screen.panel.entries()) == 4)
        await pilot.pause(0.1)
        gap = [e.text for e in screen.panel.entries() if not e.told]
        assert gap == ["back", "back", "once more"]

        colony.push("worker_gone", WorkerGone(worker_id="w-05", reason="stopped"))
        await until(pilot, lambda: "w-05" not in app.store.workers)
        repaint(app)
        notes = {row.key: row.note for row in screen.tree_panel.rows}
        assert notes["w-05"] == "gone"
        colony.push("hive_gone", HiveGone(name="barn"))
        await until(pilot, lambda: "barn" not in app.store.hives)
        repaint(app)
        await pilot.pause()
        assert "barn" not in {row.key for row in screen.tree_panel.rows}
