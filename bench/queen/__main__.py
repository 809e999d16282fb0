"""`python -m bench.queen`, `make bench`: measure the queen, write the tables.

Narration goes to stderr, the tables to stdout. docs/performance.md is written by a full run only.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import anyio

from bench import litellm_venv, machine
from bench.__main__ import positive, say
from bench.page import QUEEN as MARKS
from bench.page import write_page
from bench.places import PAGE, RESULTS
from bench.queen.book import QUEEN, QUICK, Size, as_json, table
from bench.queen.cases import CASES, Case, chosen, name_of, rows_of
from bench.queen.context import FAILURES, Context
from bench.report import about, write_json


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 130 when interrupted."""
    options = arguments(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cases = chosen(options.case)
    size = QUICK if options.quick else Size()
    if options.colony:
        size = replace(size, hives=options.colony)
    rounds = options.rounds or (2 if options.quick else 5)
    context = Context(rounds, size, say, *litellm(options))
    facts = machine.common()
    facts["settings"] = f"{rounds} rounds"
    if machine.BUSY in facts["load before"]:
        say(f"load {facts['load before']}")
    loop = {"use_uvloop": find_spec("uvloop") is not None}
    try:
        anyio.run(run, context, cases, backend_options=loop)
    except KeyboardInterrupt:
        say("interrupted; nothing is written")
        return 130
    write(options, context, cases, facts)
    return 0


async def run(context: Context, cases: Sequence[Case]) -> None:
    """One case after another; one that fails costs its own rows only."""
    done: set[str] = set()
    try:
        for case in cases:
            if name_of(case) in done:
                continue
            done.add(name_of(case))
            context.tell(name_of(case))
            try:
                await case.measure(context)
            except FAILURES as exc:
                context.book.drop(name_of(case), QUEEN, str(exc) or type(exc).__name__)
                context.tell(f"  not measured: {context.book.absent[name_of(case), QUEEN]}")
    finally:
        with anyio.CancelScope(shield=True):
            await context.close()


def litellm(options: argparse.Namespace) -> tuple[Path | None, str]:
    """Its Python, or why there is none."""
    if options.no_litellm or options.quick:
        return None, "it was left out"
    if not any(row.against == "LiteLLM" for _, row in rows_of(chosen(options.case))):
        return None, ""
    try:
        return litellm_venv.prepare(say), ""
    except litellm_venv.NoLiteLlm as exc:
        say(f"LiteLLM: {exc}")
        return None, str(exc)


def write(
    options: argparse.Namespace, context: Context, cases: Sequence[Case], facts: dict[str, str]
) -> None:
    """To stdout, to the JSON file, and of a full run to the page."""
    rows = rows_of(cases)
    text = f"{about(facts)}\n\n{table(context.book, rows)}\n"
    sys.stdout.write(text)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path = Path(options.json) if options.json else RESULTS / f"queen-{stamp}.json"
    plan = {"rounds": context.rounds} | asdict(context.size)
    write_json(path, as_json(facts, plan, context.book, rows))
    say(f"written: {path}")
    if not (options.quick or options.case or options.no_page):
        write_page(PAGE, text, MARKS)
        say(f"written: {PAGE}")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.queen",
        description="Measure the queen beside a bare proxy and LiteLLM, and with many of all.",
    )
    add = parser.add_argument
    names = list(dict.fromkeys(map(name_of, CASES)))
    add("--rounds", type=positive, help="rounds of each case (5, or 2 when quick)")
    add("--quick", action="store_true", help="less of all, without LiteLLM; an impression only")
    add("--case", action="append", default=[], choices=names, metavar="NAME",
        help="only this case (again for more): " + ", ".join(names))  # fmt: skip
    add("--no-litellm", action="store_true", help="do not install or measure LiteLLM")
    add("--colony", type=positive, metavar="HIVES", help="hives of the simulated colony (1000)")
    add("--json", metavar="OUT", help="where the JSON goes (bench/results/queen-TIME.json)")
    add("--no-page", action="store_true", help="leave docs/performance.md as it is")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
