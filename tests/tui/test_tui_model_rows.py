"""Models and their transfers as rows and sentences, and what is typed to find one."""

from __future__ import annotations

from typing import Any

import colony_data as data
import models_data
import msgspec
import pytest
from models_data import ended

from rbee.protocol.jobs import JobInfo, JobState
from rbee.tui.carriage import KEPT_SECONDS, Stand, Tale, carriages
from rbee.tui.glyphs import UNICODE
from rbee.tui.rows_carriage import sentence, words
from rbee.tui.rows_found import fits_words, reference, repository_row
from rbee.tui.rows_models import detail_lines, gigabytes, items
from rbee.tui.store import ColonyStore

replace = msgspec.structs.replace


def store_with(*jobs: JobInfo) -> ColonyStore:
    store = ColonyStore(clock=lambda: data.NOW)
    store.apply("snapshot", replace(models_data.snapshot(), jobs=list(jobs)))
    return store


def test_carriages_put_what_runs_first_then_what_failed() -> None:
    done, lost = ended("j-1", JobState.COMPLETED), ended("j-2", JobState.FAILED, retry_of="j-0")
    before = ended("j-0", JobState.FAILED)
    old = replace(ended("j-3", JobState.CANCELLED), finished_at=data.NOW - KEPT_SECONDS)
    store = store_with(done, lost, before, old, models_data.FETCH)
    tales = {"j-1": Tale(result={"problems": ["x.gguf: wrong hash"], "files": 1})}
    told = carriages(store, tales, {"j-9"})
    assert [(one.key, one.stand) for one in told] == [
        ("j-130", Stand.RUNNING),
        ("attic hf:org/phi@1::p.gguf", Stand.RUNNING),
        ("j-2", Stand.FAILED),
        ("j-1", Stand.FAILED),
    ]
    assert [one.jobs for one in told[:2]] == [("j-130",), ("j-120",)]
    assert not told[1].own
    lines = words(told[3], UNICODE, 60)
    assert ("  x.gguf: wrong hash", "bad") in [span for line in lines for span in line]
    assert [one.key for one in carriages(store, {}, {"j-1", "j-2"})][2:] == []


@pytest.mark.parametrize(
    ("operation", "result", "told"),
    [
        ("model_verify", {"files": 2}, "all 2 files are well"),
        ("model_delete", {"freed": 3e9}, "3.0 GB freed"),
        ("model_download", {"bytes": 2e9, "already": True}, "it was there already: 2.0 GB"),
        ("model_copy", {}, "it is there"),
    ],
)
def test_what_was_done_is_told(operation: str, result: dict[str, Any], told: str) -> None:
    job = ended("j-1", JobState.COMPLETED, operation=operation)
    last = carriages(store_with(job), {"j-1": Tale(result=result)}, ())[-1]
    assert sentence(last) == told


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("qwen3", None),
        ("two words", None),
        ("org/repo", "hf:org/repo"),
        ("hf:org/repo:Q4_K_M", "hf:org/repo:Q4_K_M"),
        ("https://huggingface.co/org/repo", "hf:org/repo"),
        ("https://huggingface.co/org/repo/tree/main", "hf:org/repo"),
        ("https://huggingface.co/org/repo?library=x", "hf:org/repo"),
        ("https://hf.co/o/r/resolve/main/a/b.gguf?download=true", "hf:o/r@main::a/b.gguf"),
    ],
)
def test_references_are_told_from_words(text: str, ref: str | None) -> None:
    assert reference(text) == ref


def test_two_models_of_one_name_are_two_rows_and_nothing_is_wider_than_its_panel() -> None:
    from rich.cells import cell_len

    store = store_with()
    evil = models_data.held("a" * 300 + "蜂\x1b[2J", 1.0, ["mule"])
    twins = [models_data.QWEN, replace(models_data.QWEN, hives=["attic"]), evil]
    found = items(twins, store)
    assert [item.key for item in found[:2]] == ["qwen2.5-32b-q4", "qwen2.5-32b-q4 (attic)"]
    for spots in (models_data.SPOTS, [], None):
        for line in detail_lines(found[2], spots, "", store, UNICODE, 60):
            assert sum(cell_len(text) for text, _ in line) <= 60, line
    assert (gigabytes(386_000_000), gigabytes(19_800_000_000)) == ("0.39G", "19.8G")


def test_what_is_here_already_is_said_first() -> None:
    here = models_data.choice("o/r", "Q4_K_M", 1.0, here=["mule"], files=3)
    assert fits_words(here) == "here: mule"
    nothing = models_data.choice("o/r", "Q4_K_M", 1.0)
    assert "no machine here runs" in fits_words(nothing)
    row = repository_row(replace(models_data.HUB[0], choices=[here]), UNICODE)
    assert row.cells["fits"] == ("Q4_K_M is here", "ok")
