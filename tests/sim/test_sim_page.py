"""docs/simulation.md against the code: keys, examples, names and figures."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rbee.sim.contest import POLICIES, contest
from rbee.sim.files import shipped
from rbee.sim.fleets import DeviceSpec, FleetSpec, HiveSpec, load_fleet
from rbee.sim.traces import (
    FailureSpec,
    ModelSpec,
    RequestSpec,
    StreamSpec,
    TraceSpec,
    load_trace,
)

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "simulation.md").read_text("utf-8")
BLOCKS = dict[str, list[str]]()
for kind, block in re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.M | re.S):
    BLOCKS.setdefault(kind, []).append(block)


def keys(tables: list[dict[str, Any]]) -> set[str]:
    return {key for table in tables for key in table}


def fields(kind: type[msgspec.Struct]) -> set[str]:
    return set(kind.__struct_fields__)


def test_the_example_of_a_trace_has_every_key_and_runs(tmp_path: Path):
    file = tmp_path / "trace.toml"
    file.write_text(BLOCKS["toml"][0])
    raw = tomllib.loads(BLOCKS["toml"][0])
    assert set(raw) == fields(TraceSpec)
    assert keys(list(raw["models"].values())) == fields(ModelSpec)
    assert keys(raw["stream"]) == fields(StreamSpec)
    assert keys(raw["request"]) == fields(RequestSpec)
    assert keys(raw["failure"]) == fields(FailureSpec)
    trace = load_trace(str(file))
    (found,) = contest(trace, load_fleet(trace.fleet), ["ect"], names=("t", "f"))
    assert found.completed == found.requests > 10


def test_the_example_of_a_list_runs(tmp_path: Path):
    file = tmp_path / "list.jsonl"
    file.write_text(BLOCKS["jsonl"][0])
    trace = load_trace(str(file))
    (found,) = contest(trace, load_fleet(trace.fleet), ["ect"], names=("t", "f"))
    assert (found.completed, found.cached_tokens) == (2, 1020)


def test_the_example_of_a_fleet_has_every_key(tmp_path: Path):
    file = tmp_path / "fleet.toml"
    file.write_text(BLOCKS["toml"][1])
    raw = tomllib.loads(BLOCKS["toml"][1])
    assert set(raw) == fields(FleetSpec)
    assert keys(raw["hive"]) == fields(HiveSpec)
    assert keys(raw["hive"][0]["device"]) == fields(DeviceSpec)
    assert load_fleet(str(file)).hive[0].name == "desk"


def test_it_names_what_comes_with_rbee():
    tables = PAGE.split("## Figures")[0]
    for name in (*shipped("traces"), *POLICIES):
        assert f"| `{name}` |" in tables
    for name in shipped("traces"):
        assert f"| `{name}` | `{load_trace(name).fleet}` |" in tables


@pytest.mark.parametrize("name", shipped("traces"))
def test_its_figures_are_those_of_this_version(name: str):
    """When this fails: `python docs/simulated.py`, and see whether the text still holds."""
    tools = runpy.run_path(str(ROOT / "docs" / "simulated.py"))
    (row,) = re.findall(rf"^\| `{name}` \| ([\d.| ]+) \|$", PAGE, re.M)
    cells = [float(cell) for cell in row.split(" | ")]
    assert len(cells) == 3 * len(POLICIES)
    (found,) = tools["simulated"](name, ["ect"])
    written = cells[0], cells[len(POLICIES)], cells[2 * len(POLICIES)]
    now = found.first_token.p95, found.total.p95, found.loads
    assert now == pytest.approx(written, rel=0.2)
