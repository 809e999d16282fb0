"""The Models screen against the double: what it shows, what its keys do, what it looks like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import colony_data as data
import models_data
import msgspec
import pytest
from colony_double import ColonyDouble
from screen_driver import app_for, connected, dialog, repaint, text_of, until
from textual.pilot import Pilot
from textual.widgets import Input

from rbee.protocol.colony import Models as ModelsChanged
from rbee.protocol.jobs import JobState
from rbee.protocol.models import TransferState
from rbee.tui.app import RbeeApp
from rbee.tui.carriage import Tale
from rbee.tui.screens.choosing import Chooser
from rbee.tui.screens.dialogs import Confirm
from rbee.tui.screens.finding import FindModel
from rbee.tui.screens.models import Models

anyio = pytest.mark.anyio
replace = msgspec.structs.replace


@pytest.fixture
def colony() -> Iterator[ColonyDouble]:
    with ColonyDouble(models_data.snapshot(), after=data.telemetry()) as double:
        models_data.furnish(double)
        yield double


async def shown(pilot: Pilot[Any]) -> Models:
    app = await connected(pilot)
    await pilot.press("4")
    await until(pilot, lambda: isinstance(app.screen, Models))
    screen = app.screen
    assert isinstance(screen, Models)
    await until(pilot, lambda: screen._held is not None, "the catalogue")
    return screen


def shows(app: RbeeApp, wanted: str) -> bool:
    return wanted in " ".join(" ".join(text_of(app)).split())


async def sees(pilot: Pilot[Any], wanted: str) -> None:
    await until(pilot, lambda: shows(pilot.app, wanted), repr(wanted))  # pyright: ignore[reportArgumentType]


def details(screen: Models) -> str:
    """What the right pane says, in one line."""
    lines = ["".join(text for text, _ in line) for line in screen.details.lines]
    return " ".join(" ".join(lines).split())


def question(app: RbeeApp) -> str:
    assert isinstance(app.screen, Confirm)
    return app.screen._question


def asked(colony: ColonyDouble) -> list[dict[str, Any]]:
    """What was submitted, without what was left open."""
    return [{k: v for k, v in job.items() if v is not None} for job in colony.submitted]


@anyio
async def test_what_is_done_with_models_and_transfers(colony: ColonyDouble) -> None:
    app = app_for(colony)
    async with app.run_test(size=(160, 45)) as pilot:
        screen = await shown(pilot)
        await until(pilot, lambda: screen._spots, "the forecast")
        for words_ in (
            "w-05, idle, would be stopped for it",
            "Q3_K_M would need about 15.9 GiB",
            "hive laptop is offline",
            "w-01 mule cuda:0 serving",
        ):
            assert words_ in details(screen)
        row = screen.table.current
        assert row is not None
        assert (row.key, row.command) == ("qwen2.5-32b-q4", "rbee model show qwen2.5-32b-q4")
        await pilot.press("u", "v")
        await until(pilot, lambda: len(colony.submitted) == 2)

        await pilot.press("n")
        await dialog(pilot, Chooser)
        assert shows(app, "Start qwen2.5-32b-q4 where?")
        await pilot.press("enter")
        await until(pilot, lambda: len(colony.submitted) == 3)
        await pilot.press("p")
        await dialog(pilot, Chooser)
        assert isinstance(app.screen, Chooser)
        offers = {offer.value: offer.words for offer in app.screen._lines}
        assert "0.6 GiB is free; 19.8 GB to copy, 412.0 GB free on its disk" in offers["attic"]
        assert "laptop" not in offers, "it is offline"
        await pilot.press("enter")
        await until(pilot, lambda: len(colony.submitted) == 4)
        assert asked(colony) == [
            {"operation": "model_unload", "model": "qwen2.5-32b-q4"},
            {"operation": "model_verify", "model": "qwen2.5-32b-q4", "hive": "mule"},
            {"operation": "worker_spawn", "model": "qwen2.5-32b-q4", "pin": False},
            {"operation": "model_copy", "model": "qwen2.5-32b-q4", "to_hive": "attic"},
        ]

        colony.submitted.clear()
        await pilot.press("delete")
        await dialog(pilot, Confirm)
        assert question(app) == "qwen2.5-32b-q4. Loaded now by w-01."
        assert shows(app, "delete from mule: 19.8 GB freed")
        await pilot.press("enter")
        await dialog(pilot, Models)
        assert colony.submitted == [], "the safe choice has the cursor"
        await pilot.press("space", "down", "space", "space", "delete")
        await dialog(pilot, Confirm)
        assert shows(app, "Delete 3 models?")
        assert shows(app, "1 from mule: 21.0 GB freed")
        await pilot.press("2")
        await until(pilot, lambda: colony.submitted)
        assert asked(colony) == [
            {"operation": "model_delete", "model": "smollm2-360m", "hive": "pi-hive"}
        ]
        await until(pilot, lambda: not screen.table.marked)

        screen.transfers.focus()
        await pilot.press("g")
        await pilot.press("x")
        await dialog(pilot, Confirm)
        assert "download of org/whisper-large-v3:Q5_0 to mule (j-130)." in question(app)
        await pilot.press("c")
        await until(pilot, lambda: colony.cancelled == ["j-130"])
        await pilot.press("j", "x")
        await dialog(pilot, Confirm)
        assert "It serves j-120, and ends when that is cancelled." in question(app)
        await pilot.press("escape", "j")
        repaint(app)
        hint = " ".join(text for line in screen.transfers.hint for text, _ in line)
        assert "Free 5.3 GiB on pi-hive" in hint
        assert screen.check_action("cancel_transfer", ()) is None
        await pilot.press("R")
        await until(pilot, lambda: colony.retried == ["j-128"])
        await until(
            pilot, lambda: repaint(app) or "j-128" not in [one.key for one in screen._carried]
        )


@anyio
async def test_a_model_is_found_on_the_hub_and_fetched(colony: ColonyDouble) -> None:
    app = app_for(colony)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await shown(pilot)
        assert not screen.details.display
        await pilot.press("enter")
        await sees(pilot, "ctx 32768")
        await until(pilot, lambda: screen._spots, "the forecast")
        await pilot.press("escape")
        await until(pilot, lambda: not screen.details.display and screen.table.has_focus)
        await until(pilot, lambda: not [w for w in screen.workers if w.group == "fits"])

        await pilot.press("d")
        await dialog(pilot, FindModel)
        await pilot.press(*"qwen3", "enter")
        await sees(pilot, "Q4_K_M 5.0 GB mule cuda:0")
        assert shows(app, "gated, too big")
        await pilot.press("enter")
        await sees(pilot, "nowhere: in 3 files")
        await pilot.press("escape")
        await sees(pilot, "gated, too big")
        await pilot.press("down", "enter")
        await sees(pilot, "140.0 GB")
        await pilot.press("escape")
        await sees(pilot, "▌✗ someone/qwen3-235b")
        await pilot.press("up", "enter", "down", "down", "enter")
        await sees(pilot, "It would run nowhere: in 3 files")
        await pilot.press("up", "up", "enter")
        await dialog(pilot, Chooser)
        assert shows(app, "would run on cuda:0; 412.0 GB free on its disk")
        await pilot.press("j", "enter")
        await until(pilot, lambda: colony.submitted)

        for typed in ("hf:Qwen/Qwen3-8B-GGUF:Q8_0", "https://hub.co/org/r/blob/main/a%20b.gguf"):
            await pilot.press("d")
            await dialog(pilot, FindModel)
            app.screen.query_one(Input).value = typed
            await pilot.press("enter")
            if typed.startswith("hf:"):
                await sees(pilot, "8.7 GB")
                await pilot.press("enter")
            await dialog(pilot, Chooser)
            await pilot.press("enter")
            await dialog(pilot, Models)
        await until(pilot, lambda: len(colony.submitted) == 3)
        assert asked(colony) == [
            {
                "operation": "model_download",
                "model": "hf:Qwen/Qwen3-8B-GGUF:Q4_K_M",
                "hive": "attic",
            },
            {"operation": "model_download", "model": "hf:Qwen/Qwen3-8B-GGUF:Q8_0"},
            {"operation": "model_download", "model": "hf:org/r@main::a%20b.gguf"},
        ]
        await pilot.press("d")
        await dialog(pilot, FindModel)
        await pilot.press(*"org/none", "enter")
        await sees(pilot, "the hub has no org/none")
        assert shows(app, "→ Look for it: rbee model search")
        await pilot.press("escape")
        await dialog(pilot, Models)


@anyio
async def test_the_library_follows_the_catalogue_and_is_filtered(colony: ColonyDouble) -> None:
    app = app_for(colony)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await shown(pilot)
        repaint(app)
        assert [row.key for row in screen.table.rows][-2:] == [
            "org/whisper-large-v3:Q5_0", "org/phi-4-mini:Q4_K_M",
        ]  # fmt: skip
        done = replace(models_data.COMING, state=TransferState.DONE)
        whisper = models_data.held("org/whisper-large-v3:Q5_0", 3.1, ["mule"], quant="Q5_0")
        colony.held.append(whisper)
        colony.push("download", done)
        colony.push("models", ModelsChanged(models=[one.model for one in colony.held]))
        await until(pilot, lambda: repaint(app) or len(screen._held or []) == 6, "it is read again")
        repaint(app)
        row = next(row for row in screen.table.rows if row.key == whisper.model.id)
        assert (row.cells["where"][0], row.cells["model"][0]) == ("mule", "whisper-large-v3")
        colony.push("job", models_data.ended("j-140", JobState.COMPLETED, operation="model_delete"))
        await until(pilot, lambda: repaint(app) or screen._carried[-1].key == "j-140")
        screen.transfers.focus()
        await pilot.press("G", "escape")
        await until(pilot, lambda: "j-140" not in [one.key for one in screen._carried])
        assert "j-128" in [one.key for one in screen._carried]
        screen.table.focus()
        await pilot.press("slash", *"!mule", "enter")
        await until(
            pilot,
            lambda: (
                [row.key for row in screen.table.rows]
                == ["smollm2-360m", "mistral-7b-v0.3", "org/phi-4-mini:Q4_K_M"]
            ),
        )
        count = colony.asked.count("/v1/catalog/models")
        await pilot.press("escape", "1")
        await until(pilot, lambda: app.current_mode == "dashboard")
        assert not [w for w in screen.workers if w.group in ("catalogue", "fits")]
        assert colony.asked.count("/v1/catalog/models") == count, "nothing is asked out of sight"


async def full_state(pilot: Pilot[Any]) -> None:
    screen = await shown(pilot)
    app = screen.rbee
    app.store.tick()
    if screen.details.display:
        await until(pilot, lambda: repaint(app) or screen._spots, "the forecast")
    await until(pilot, lambda: screen._tales.get("j-128", Tale()).error, "why it failed")
    await until(pilot, lambda: len(app.store.utilisation.get("mule/cuda:0", ())) == 60)
    repaint(app)
    await pilot.pause()
    await pilot.pause()


async def empty_state(pilot: Pilot[Any]) -> None:
    screen = await shown(pilot)
    await until(pilot, lambda: repaint(screen.rbee) or screen.query_one("#empty").has_focus)
    await pilot.pause()


async def choices_state(pilot: Pilot[Any]) -> None:
    await full_state(pilot)
    await pilot.press("d")
    await dialog(pilot, FindModel)
    await pilot.press(*"qwen3", "enter")
    await sees(pilot, "gated, too big")
    await pilot.press("enter")
    await sees(pilot, "nowhere: in 3 files")
    await until(pilot, lambda: not [w for w in pilot.app.screen.workers if w.group == "hub"])
    await pilot.pause()


SIZES = [pytest.param(size, id=f"{size[0]}x{size[1]}") for size in ((80, 24), (160, 45))]


@pytest.mark.parametrize("size", SIZES)
def test_models_full(
    snap_compare: Callable[..., bool], colony: ColonyDouble, size: tuple[int, int]
) -> None:
    assert snap_compare(app_for(colony), terminal_size=size, run_before=full_state)


@pytest.mark.parametrize("size", SIZES)
def test_models_empty(snap_compare: Callable[..., bool], size: tuple[int, int]) -> None:
    with ColonyDouble(replace(data.quiet(), models=[])) as double:
        assert snap_compare(app_for(double), terminal_size=size, run_before=empty_state)


def test_models_found(snap_compare: Callable[..., bool], colony: ColonyDouble) -> None:
    app = app_for(colony, ascii_glyphs=True)
    assert snap_compare(app, terminal_size=(80, 24), run_before=choices_state)
