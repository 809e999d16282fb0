"""`python -m bench`, `make bench-engine`: prepare what is needed, measure, write the tables.

Narration goes to stderr, the tables to stdout. docs/performance.md is written by a full run only.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import anyio

from bench import build_llama_server, llama_cpp_venv, machine, models, page, report
from bench.cases import CASES, LLAMA_CPP, LLAMA_SERVER, QUICK, Size, chosen
from bench.places import PAGE, RESULTS
from bench.session import Measured, Plan, Session, Tools
from rbee.hardware.cpu import physical_cores


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 1 when something needed cannot be had, 130 when interrupted."""
    options = arguments(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cases = chosen(options.case, options.model)
    if not cases:
        say("no case is left: --case and --model exclude each other")
        return 2
    wanted = {name for case in cases for name in case.servers}
    try:
        tools = prepare(options.llama_server, wanted, {m for case in cases for m in case.models})
    except (build_llama_server.CannotBuild, models.NoModel) as exc:
        say(str(exc))
        return 1
    rounds = options.rounds or (2 if options.quick else 5)
    plan = Plan(cases, rounds, QUICK if options.quick else Size(), physical_cores())
    session = Session(plan, tools, say)
    facts = machine.facts(tools.llama_server)
    facts["settings"] = f"{rounds} rounds, {plan.threads} threads, {plan.ctx} tokens a slot"
    if tools.llama_server is not None and (other := machine.mismatch(tools.llama_server)):
        say(other)
        facts["not equal"] = other
    if machine.BUSY in facts["load before"]:
        say(f"load {facts['load before']}")
    loop = {"use_uvloop": find_spec("uvloop") is not None}
    try:
        measured = anyio.run(session.run, backend_options=loop)
    except KeyboardInterrupt:
        say("interrupted; nothing is written")
        return 130
    full = not (options.quick or options.case or options.model or options.no_page)
    write(options.json, full, plan, facts, measured)
    return 0


def prepare(given: str | None, wanted: set[str], kinds: set[str]) -> Tools:
    """Binaries and model files. Raises CannotBuild, NoModel; llama_cpp.server may be absent."""
    binary = build_llama_server.prepare(say, given) if LLAMA_SERVER in wanted else None
    absent: dict[str, str] = {}
    python: Path | None = None
    if LLAMA_CPP in wanted:
        try:
            python = llama_cpp_venv.prepare(say)
        except llama_cpp_venv.NoServer as exc:
            absent[LLAMA_CPP] = str(exc)
    files = {kind: models.prepare(kind, say) for kind in sorted(kinds)}
    return Tools(binary, python, absent, files)


def write(
    json_path: str | None, full: bool, plan: Plan, facts: dict[str, str], measured: list[Measured]
) -> None:
    """To stdout, to the JSON file, and of a full run to the page."""
    text = f"{report.about(facts)}\n\n{report.table(measured)}\n"
    sys.stdout.write(text)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path = Path(json_path) if json_path else RESULTS / f"engine-{stamp}.json"
    size = {"rounds": plan.rounds, "threads": plan.threads, "ctx": plan.ctx} | asdict(plan.size)
    report.write_json(path, report.as_json(facts, size, measured))
    say(f"written: {path}")
    if full:
        page.write_page(PAGE, text, page.ENGINE)
        say(f"written: {PAGE}")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure rbee's engine beside other servers."
    )
    add = partial(parser.add_argument)
    add("--rounds", type=positive, help="rounds of each case (5, or 2 when quick)")
    add("--quick", action="store_true", help="short answers, 2 rounds; an impression only")
    names = [case.name for case in CASES]
    add("--case", action="append", default=[], choices=names, metavar="NAME",
        help="only this case (again for more): " + ", ".join(names))  # fmt: skip
    add("--model", action="append", default=[], choices=sorted(models.FTYPES), help="only this")
    add("--json", metavar="OUT", help="where the JSON goes (bench/results/engine-TIME.json)")
    add("--no-page", action="store_true", help="leave docs/performance.md as it is")
    variable = build_llama_server.VARIABLE
    add("--llama-server", metavar="PATH", help=f"a binary, instead of building one ({variable})")
    return parser.parse_args(argv)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def say(text: str) -> None:
    """Narration."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
