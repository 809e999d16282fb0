"""`rbee why`: what was decided about a job, from which options, and what each would have cost."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

from rbee.commands.common import ask, check_id
from rbee.narration import printable
from rbee.output import milliseconds, moment, print_json, print_table
from rbee.protocol.decisions import Decision, Option, Why

TERMS = ("wait", "load", "wake", "ext", "prefill", "decode", "total")
"""Columns, in seconds; `wake` and `ext` only when some option has any."""
RARE = ("wake", "ext")
VERDICTS = {
    "run": "given to",
    "start": "a worker is started on",
    "claim": "room is made on",
    "wait": "it waits",
    "refuse": "refused",
}


def run(job_id: str, *, everything: bool, as_json: bool) -> int:
    """Print them, the last in full or all; the exit code."""
    check_id(job_id, of="job")
    found = ask(lambda queen: queen.why(job_id))
    if as_json:
        print_json(found)
        return 0
    if found.fetching:
        _write(f"{job_id} waits for its model, and is placed when that is there:")
        _write(f"   {found.fetching}")
    elif not found.decisions:
        sys.stderr.write(
            f"Nothing was decided about {job_id} ({found.state}): only work for a model is placed,"
            f" and decisions are kept for the latest jobs.\n"
            f"`rbee job logs {job_id}` tells what happened.\n"
        )
    if found.decisions:
        _print(found, everything=everything)
    return 0


def _print(found: Why, *, everything: bool) -> None:
    last = found.decisions[-1]
    count = len(found.decisions)
    _write(f"{found.job_id}: {last.model}, {found.state}, {count} decision{'s'[: count > 1]}")
    shown = found.decisions if everything else [last]
    if not everything and count > 1:
        _write("")
        for number, one in enumerate(found.decisions[:-1], 1):
            _write(f"{number}. {moment(one.at)}  {_summary(one)}")
    for number, one in enumerate(shown, count - len(shown) + 1):
        _write("")
        waits = one is last and found.state == "queued"
        when = "now" if waits else moment(one.at)
        _write(f"{number}. {when}  {_summary(one)}")
        _detail(one)


def _summary(one: Decision) -> str:
    what = VERDICTS.get(one.verdict, one.verdict)
    where = f" {one.chosen}" if one.chosen else ""
    if one.verdict == "wait" and one.chosen:
        where = f" for {one.chosen}"
    again = f" (try {one.attempt + 1})" if one.verdict == "run" and one.attempt else ""
    return f"{what}{where}{again}: {one.reason}"


def _detail(one: Decision) -> None:
    waited = milliseconds(one.waited_ms)
    _write(f"   policy {one.policy}, {waited} after it was queued", hang=3)
    if one.evicted:
        _write(f"   stopped to make room: {', '.join(one.evicted)}", hang=3)
    scored = [option for option in one.options if option.passed and option.score is not None]
    if scored:
        _write("")
        _table(one, scored)
        _write(
            "   seconds until it would be complete there; hit: prompt tokens known there", hang=3
        )
    for option in scored:
        notes = [option.why] if option.why not in ("", one.reason) else []
        if option.evicts:
            notes.append(f"would stop {', '.join(option.evicts)}")
        if notes:
            _write(f"   {_name(option)}: {'; '.join(notes)}", hang=5)
    barred = [option for option in one.options if option not in scored]
    if barred:
        _write("")
        _write("   not possible:")
        for option in barred:
            told = option.why.startswith(_name(option))
            _write(f"   - {option.why}" if told else f"   - {_name(option)}: {option.why}", hang=5)
    if one.left_out:
        _write(f"   … and {one.left_out} more options")


def _table(one: Decision, options: Sequence[Option]) -> None:
    scores = [option.score for option in options if option.score is not None]
    terms = [t for t in TERMS if t not in RARE or any(getattr(s, t) for s in scores)]
    rows = [
        [
            "→" if _name(option) == one.chosen or option.worker_id == one.chosen else "",
            _name(option),
            *(_seconds(getattr(option.score, term)) for term in terms),
            str(option.score.hit_tokens or "·"),
        ]
        for option in options
        if option.score is not None
    ]
    print_table(["", "option", *terms, "hit"], rows, empty="")


def _name(option: Option) -> str:
    place = f"{option.hive} {option.device}" if option.device else option.hive
    return option.worker_id if option.kind == "worker" and option.worker_id else place


def _seconds(value: float) -> str:
    if not value:
        return "·"
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _write(line: str, *, hang: int = 3) -> None:
    """Wrapped on a terminal, whole into a pipe."""
    text = line[: len(line) - len(line.lstrip())] + printable(line.lstrip())
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        text = textwrap.fill(text, width, subsequent_indent=" " * hang, break_long_words=False)
    sys.stdout.write(text + "\n")
