"""`rbee sim`: what the queen would decide for a trace of requests on a fleet, in virtual time.

Owns how the figures look. Starts no queen, reads no settings and touches no machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from rbee.errors import InvalidRequest
from rbee.narration import Narrator, printable
from rbee.output import print_json, print_table
from rbee.sim.contest import ABOUT, chosen, contest
from rbee.sim.files import shipped
from rbee.sim.fleets import load_fleet
from rbee.sim.tally import Figures, Outcome
from rbee.sim.traces import load_trace

SILENT = 1.0
"""Seconds without a word on how far it is."""


def run(
    trace: str | None,
    *,
    policies: Sequence[str],
    fleet: str | None,
    seed: int | None,
    as_json: bool,
) -> int:
    """Simulate and print; without a trace, say what there is."""
    if trace is None:
        if policies or fleet is not None or seed is not None:
            raise InvalidRequest(
                "no trace is named", action=f"Use one of: {', '.join(shipped('traces'))}."
            )
        return _list(as_json=as_json)
    names = chosen(policies)
    requests = load_trace(trace)
    fleet = fleet or requests.fleet
    machines = load_fleet(fleet)
    narrator = Narrator()
    outcomes = contest(
        requests,
        machines,
        names,
        names=(trace, fleet),
        seed=seed,
        progress=_patient(narrator),
    )
    narrator.clear()
    if as_json:
        print_json({"title": requests.title, "fleet": machines.title, "outcomes": outcomes})
        return 0
    first = outcomes[0]
    _write(f"{trace}: {requests.title}")
    _write(f"on {fleet}: {machines.title}; seed {first.seed}")
    _write("")
    columns = ["", *(outcome.policy for outcome in outcomes)]
    rows = [[label, *map(cell, outcomes)] for label, cell in _rows(outcomes)]
    print_table(columns, rows, empty="")
    return 0


def _patient(narrator: Narrator) -> Callable[[str, float], None]:
    """Tells nothing of what is quick; a file is told each policy once, a terminal how far it is."""
    began = time.monotonic()
    told: set[tuple[str, int]] = set()
    live = sys.stderr.isatty()

    def progress(policy: str, fraction: float) -> None:
        if time.monotonic() - began < SILENT:
            return
        step = (policy, int(fraction * 100) if live else 0)
        if step in told:
            return
        told.add(step)
        if live:
            narrator.progress(f"simulating {policy}", fraction)
        else:
            narrator.say(f"simulating {policy}")

    return progress


Cell = Callable[[Outcome], str]


def _rows(outcomes: Sequence[Outcome]) -> list[tuple[str, Cell]]:
    """What each line says; lines that would be empty for all are left out."""
    rows: list[tuple[str, Cell]] = [
        ("requests", lambda o: str(o.requests)),
        ("failed", _failed),
    ]
    classes = outcomes[0].classes
    if len(classes) == 1:
        rows += _times("", lambda o: (o.first_token, o.total))
    else:
        for name in classes:
            rows += _times(
                f"{name}: ", lambda o, n=name: (o.classes[n].first_token, o.classes[n].total)
            )
    rows += [
        ("model loads", lambda o: str(o.loads)),
        ("read from disks", lambda o: f"{o.load_gb:.0f} GB"),
        ("prompt tokens known", lambda o: f"{o.cached_tokens / max(1, o.prompt_tokens):.0%}"),
    ]
    if any(o.fairness.clients > 1 for o in outcomes):
        rows += [
            ("fairness: most to least", lambda o: f"{o.fairness.most_to_least:.2f}"),
            ("fairness: Jain's index", lambda o: f"{o.fairness.jain:.3f}"),
        ]
    seldom: list[tuple[str, Callable[[Outcome], int]]] = [
        ("resumed answers", lambda o: o.resumes),
        ("put back for others", lambda o: o.preemptions),
        ("turned away by workers", lambda o: o.turned_away),
        ("loads out of memory", lambda o: o.out_of_memory),
    ]
    for label, number in seldom:
        if any(map(number, outcomes)):
            rows.append((label, lambda o, number=number: str(number(o))))
    return rows


def _times(prefix: str, of: Callable[[Outcome], tuple[Figures, Figures]]) -> list[tuple[str, Cell]]:
    return [
        (f"{prefix}first token p50", lambda o: _seconds(of(o)[0].p50)),
        (f"{prefix}first token p95", lambda o: _seconds(of(o)[0].p95)),
        (f"{prefix}total p50", lambda o: _seconds(of(o)[1].p50)),
        (f"{prefix}total p95", lambda o: _seconds(of(o)[1].p95)),
    ]


def _failed(outcome: Outcome) -> str:
    codes = ", ".join(f"{count} {code}" for code, count in outcome.errors.items())
    return f"{outcome.failed} ({codes})" if codes else "0"


def _seconds(value: float) -> str:
    if not value:
        return "·"
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def _list(*, as_json: bool) -> int:
    """What comes with rbee, and how it is used."""
    traces = {name: load_trace(name) for name in shipped("traces")}
    fleets = {name: load_fleet(name) for name in shipped("fleets")}
    if as_json:
        print_json(
            {
                "traces": {n: {"title": t.title, "fleet": t.fleet} for n, t in traces.items()},
                "fleets": {n: {"title": f.title, "hives": len(f.hive)} for n, f in fleets.items()},
                "policies": ABOUT,
            }
        )
        return 0
    print_table(
        ["trace", "on", "what"], [[n, t.fleet, t.title] for n, t in traces.items()], empty=""
    )
    _write("")
    rows = [[n, str(len(f.hive)), f.title] for n, f in fleets.items()]
    print_table(["fleet", "hives", "what"], rows, empty="")
    _write("")
    print_table(["policy", "what"], [[n, what] for n, what in ABOUT.items()], empty="")
    _write("")
    _write("rbee sim abab                         all policies side by side")
    _write("rbee sim chat --fleet two-gpus --policy ect --seed 7 --json")
    _write("rbee sim ./mine.toml --fleet ./house.toml")
    return 0


def _write(line: str) -> None:
    sys.stdout.write(printable(line) + "\n")
