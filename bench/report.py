"""Tables and JSON out of what was measured. Pure but for `write_json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.cases import Figure
from bench.figures import Spread, ratio, spread
from bench.session import Measured


def table(measured: Sequence[Measured]) -> str:
    """Markdown: one table for what has targets against llama-server, one for the queen."""
    beside = [m for m in measured if m.case.servers[0] == "rbee"]
    queen = [m for m in measured if m.case.servers[0] != "rbee"]
    parts: list[str] = []
    if beside:
        head = ["", "what", "model", "unit", "rbee", "llama-server", "llama_cpp.server",
                "ratio", "by rounds", "target", "met"]  # fmt: skip
        parts.append(markdown(head, [row(m, f, head[4:7]) for m in beside for f in m.case.figures]))
    if queen:
        head = ["", "what", "model", "unit", *queen[0].case.servers, "ratio", "by rounds"]
        rows = [row(m, f, head[4:6])[:8] for m in queen for f in m.case.figures]
        parts.append("### Through the queen\n\n" + markdown(head, rows))
    if said := remarks(measured):
        parts.append("\n".join(f"- {line}" for line in said))
    return "\n\n".join(parts)


def row(measured: Measured, figure: Figure, servers: Sequence[str]) -> list[str]:
    """The cells of one row."""
    series = {name: measured.series(name, figure.key) for name in servers}
    found = compare(measured, figure)
    verdict = ""
    if figure.target is not None:
        verdict = "not measured"
        if found is not None:
            verdict = "yes" if figure.target.met(found.of_medians) else "**no**"
    return [
        figure.number,
        figure.what,
        measured.model.upper(),
        figure.unit,
        *(cell(spread(values)) if values else "–" for values in series.values()),
        f"{found.of_medians:.2f}" if found else "–",
        f"{found.per_round:.2f} ({found.low:.2f}–{found.high:.2f})" if found else "–",
        str(figure.target) if figure.target else "",
        verdict,
    ]


def compare(measured: Measured, figure: Figure) -> Any:
    """The first server's figures by the second's; None where there is no second."""
    names = measured.case.servers
    if len(names) < 2:
        return None
    return ratio(measured.series(names[0], figure.key), measured.series(names[1], figure.key))


def cell(value: Spread) -> str:
    """`148 (142–150)`; one round has no range."""
    if value.count == 1:
        return number(value.median)
    return f"{number(value.median)} ({number(value.low)}–{number(value.high)})"


def number(value: float) -> str:
    """Three significant digits or all before the point."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def remarks(measured: Sequence[Measured]) -> list[str]:
    """Why cells are empty, and what to know of figures; each sentence once."""
    said: dict[str, list[str]] = {}
    for m in measured:
        where = f"{m.case.name} {m.model.upper()}"
        for name, why in sorted(m.absent.items()):
            said.setdefault(f"{name} was not measured: {why}", []).append(where)
        for note in sorted(m.notes):
            said.setdefault(note, []).append(where)
    return [f"{text} ({', '.join(places)})" for text, places in said.items()]


def about(facts: dict[str, Any]) -> str:
    """The lines above a table: when, where, what."""
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def as_json(
    facts: dict[str, Any], plan: dict[str, Any], measured: Sequence[Measured]
) -> dict[str, Any]:
    """Everything, each round's figures included."""
    rows: list[dict[str, Any]] = []
    for m in measured:
        for figure in m.case.figures:
            found = compare(m, figure)
            met = None
            if figure.target is not None and found is not None:
                met = figure.target.met(found.of_medians)
            rows.append(
                {
                    "case": m.case.name,
                    "model": m.model,
                    "figure": figure.key,
                    "what": figure.what,
                    "unit": figure.unit,
                    "rounds": {name: m.series(name, figure.key) for name in m.case.servers},
                    "absent": m.absent,
                    "ratio": asdict(found) if found is not None else None,
                    "number": figure.number,
                    "target": str(figure.target) if figure.target else None,
                    "met": met,
                    "notes": sorted(m.notes),
                }
            )
    return {"about": facts, "plan": plan, "rows": rows}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Pretty, for people and diffs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
