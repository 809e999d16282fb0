"""The table of figures in simulation.md, made by simulating what comes with rbee.

`python docs/simulated.py` writes it in place. Owns the table; a test tells when it is stale.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rbee.sim.contest import POLICIES, contest
from rbee.sim.files import shipped
from rbee.sim.fleets import load_fleet
from rbee.sim.tally import Outcome
from rbee.sim.traces import load_trace

PAGE = Path(__file__).parent / "simulation.md"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->"


def simulated(name: str, policies: Sequence[str]) -> list[Outcome]:
    """A shipped trace on its own fleet with its own seed."""
    trace = load_trace(name)
    return contest(trace, load_fleet(trace.fleet), policies, names=(name, trace.fleet))


def row(name: str, outcomes: Sequence[Outcome]) -> str:
    """One line of the table."""
    cells = [_seconds(o.first_token.p95) for o in outcomes]
    cells += [_seconds(o.total.p95) for o in outcomes]
    cells += [str(o.loads) for o in outcomes]
    return f"| `{name}` | {' | '.join(cells)} |"


def table() -> str:
    """All of it."""
    first, *others = POLICIES
    titles = [f"{what}: {first} | {' | '.join(others)}" for what in ("first", "total", "loads")]
    lines = [f"| trace | {' | '.join(titles)} |", "|---" * (1 + 3 * len(POLICIES)) + "|"]
    lines += [row(name, simulated(name, list(POLICIES))) for name in shipped("traces")]
    return "\n".join(lines) + "\n"


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}", "utf-8")
