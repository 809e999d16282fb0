"""Tables, the page, the JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.cases import Case, Figure, Figures, Round
from bench.figures import Target, spread
from bench.page import ENGINE, QUEEN, SKELETON, replaced, write_page
from bench.places import PAGE
from bench.report import (
    as_json,
    cell,
    number,
    table,
    write_json,
)
from bench.session import Measured


async def nothing(_: Round) -> Figures:
    return {}


def measured(ours: list[float], theirs: list[float], *, queen: bool = False) -> Measured:
    figure = Figure("rate", "8 streams", "tokens/s", Target(1.0, least=True), "P2")
    servers = ("through the queen", "direct") if queen else ("rbee", "llama-server")
    case = Case("8-greedy", nothing, (figure,), servers=servers)
    series = (ours, theirs)
    values = {n: [{"rate": v} for v in s] for n, s in zip(servers, series, strict=True) if s}
    return Measured(case, "q4_0", values)


def cells(text: str, what: str) -> list[str]:
    line = next(line for line in text.splitlines() if f"| {what} |" in line)
    return [part.strip() for part in line.strip("|").split("|")]


def test_a_row_with_its_target():
    row = cells(table([measured([150, 148, 152], [140, 142, 145])]), "8 streams")
    assert row == [
        *("P2", "8 streams", "Q4_0", "tokens/s", "150 (148–152)", "142 (140–145)", "–"),
        *("1.06", "1.05 (1.04–1.07)", "≥ 1", "yes"),
    ]


def test_a_missed_target_is_told():
    assert cells(table([measured([90], [100])]), "8 streams")[-1] == "**no**"


def test_what_was_not_measured_is_told_with_its_reason():
    case = measured([], [100.0])
    case.absent["rbee"] = "it did not start"
    case.notes.add("llama-server: some answers ended before their length")
    text = table([case])
    assert cells(text, "8 streams")[4:] == ["–", "100", "–", "–", "–", "≥ 1", "not measured"]
    assert "- rbee was not measured: it did not start (8-greedy Q4_0)" in text
    assert "- llama-server: some answers ended before their length (8-greedy Q4_0)" in text


def test_every_row_has_as_many_cells_as_its_head():
    text = table([measured([1.0], [1.0]), measured([1.0], [1.0], queen=True)])
    for block in text.split("\n\n"):
        widths = {line.count("|") for line in block.splitlines() if line.startswith("|")}
        assert len(widths) <= 1
    assert "### Through the queen" in text


def test_numbers():
    assert [number(v) for v in (0.1234, 1.0, 12.345, 99.94, 142.4)] == [
        *("0.12", "1.00", "12.3", "99.9", "142"),
    ]
    assert cell(spread([5.0])) == "5.00"


def test_the_page_keeps_what_people_wrote(tmp_path: Path):
    page = tmp_path / "performance.md"
    write_page(page, "1st figures", ENGINE)
    page.write_text(page.read_text("utf-8").replace("# Speed", "# Speed, edited"), "utf-8")
    write_page(page, "second\n", ENGINE)
    text = page.read_text("utf-8")
    assert text.startswith("# Speed, edited\n")
    assert f"{ENGINE[0]}\nsecond\n{ENGINE[1]}\n" in text
    assert text.count(QUEEN[0]) == text.count(QUEEN[1]) == 1
    assert "1st figures" not in text


def test_a_page_without_markers_is_left_alone(tmp_path: Path):
    page = tmp_path / "performance.md"
    page.write_text("mine", "utf-8")
    with pytest.raises(ValueError, match="the page has no"):
        write_page(page, "figures", ENGINE)
    assert page.read_text("utf-8") == "mine"


def test_the_page_in_the_repository_is_the_harness_own():
    """When this fails: bring the page in docs/ and the skeleton in bench/page.py together."""

    def emptied(text: str) -> str:
        return replaced(replaced(text, "", ENGINE), "", QUEEN)

    assert emptied(PAGE.read_text("utf-8")) == emptied(SKELETON)


def test_json_holds_each_round(tmp_path: Path):
    content = as_json({"date": "today"}, {"rounds": 2}, [measured([2, 4], [1, 2])])
    write_json(tmp_path / "deep" / "out.json", content)
    read = json.loads((tmp_path / "deep" / "out.json").read_text("utf-8"))
    (row,) = read["rows"]
    assert row["rounds"] == {"rbee": [2, 4], "llama-server": [1, 2]}
    assert row["ratio"]["of_medians"] == 2.0
    assert (row["met"], row["target"]) == (True, "≥ 1")
