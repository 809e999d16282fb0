"""Why a job went where it went, as lines: what was decided, the options, and why others failed.

Pure; asking the queen belongs to the screen.
"""

from __future__ import annotations

from collections.abc import Sequence

from rbee.protocol.decisions import Decision, Option, Why
from rbee.tui.glyphs import Glyphs, wall_time
from rbee.tui.job_story import span
from rbee.tui.texts import wrapped
from rbee.tui.widgets.lines import Line, Span

TERMS = ("wait", "load", "wake", "ext", "prefill", "decode", "total")
_RARE = ("wake", "ext")
_LABELS = {"ext": "others", "prefill": "prompt", "decode": "answer"}
_TERM = 7
_VERDICTS = {
    "run": "given to",
    "start": "a worker is started on",
    "claim": "room is made on",
    "wait": "it waits",
    "refuse": "refused",
}


def decision_lines(why: Why, glyphs: Glyphs, width: int) -> list[Line]:
    """All decisions, the last in full and first."""
    lines: list[Line] = []
    if why.fetching:
        lines += _text(f"It waits for its model: {why.fetching}", "warn", width)
    if not why.decisions:
        if not why.fetching:
            words = "Nothing was decided about it: only work for a model is placed, and decisions"
            lines += _text(f"{words} are kept for the latest jobs.", "muted", width)
        return lines
    last, *earlier = reversed(why.decisions)
    when = "now" if why.state == "queued" else wall_time(last.at)
    lines += _text(f"{when}  {summary(last)}", "strong", width)
    policy = f"policy {last.policy}, {span(last.waited_ms)} after it was queued"
    lines += _text(policy, "muted", width)
    if last.evicted:
        lines += _text(f"stopped to make room: {', '.join(last.evicted)}", "warn", width)
    scored = [option for option in last.options if option.passed and option.score is not None]
    if scored:
        lines += [(), *_table(last, scored, glyphs, width)]
    for option in scored:
        notes = [option.why] if option.why not in ("", last.reason) else []
        notes += [f"would stop {', '.join(option.evicts)}"] if option.evicts else []
        known = option.score.hit_tokens if option.score is not None else 0
        notes += [f"{known} tokens of the prompt are known there"] if known else []
        if notes:
            lines += _text(f"{_name(option)}: {'; '.join(notes)}", "muted", width)
    barred = [option for option in last.options if option not in scored]
    if barred:
        lines += [(), ((" Not possible", "strong"),)]
    for option in barred:
        told = option.why.startswith(_name(option))
        words = option.why if told else f"{_name(option)}: {option.why}"
        lines += _text(f"{glyphs.failed} {words}", "text", width)
    if last.left_out:
        lines += _text(f"and {last.left_out} more", "muted", width)
    if earlier:
        lines += [(), ((" Before that", "strong"),)]
    for one in earlier:
        lines += _text(f"{wall_time(one.at)}  {summary(one)}", "text", width)
    return lines


def summary(one: Decision) -> str:
    """`given to w-03: least to do`"""
    what = _VERDICTS.get(one.verdict, one.verdict)
    where = f" {one.chosen}" if one.chosen else ""
    if one.verdict == "wait" and one.chosen:
        where = f" for {one.chosen}"
    again = f" (try {one.attempt + 1})" if one.verdict == "run" and one.attempt else ""
    return f"{what}{where}{again}: {one.reason}"


def _table(one: Decision, options: Sequence[Option], glyphs: Glyphs, width: int) -> list[Line]:
    """Seconds until it would be complete there, term by term."""
    scores = [option.score for option in options if option.score is not None]
    terms = [t for t in TERMS if t not in _RARE or any(getattr(s, t) for s in scores)]
    longest = max(len(_name(option)) for option in options) + 1
    name = max(8, min(longest, width - 3 - _TERM * len(terms)))
    head = "".join(f"{_LABELS.get(term, term):>{_TERM}}" for term in terms)
    lines: list[Line] = [((f"  {'seconds':<{name}}{head}", "muted"),)]
    for option in options:
        if option.score is None:
            continue
        chosen = one.chosen in (_name(option), option.worker_id)
        spans: list[Span] = [
            (f"{glyphs.cursor if chosen else ' '} ".rjust(2), "key"),
            (glyphs.clip(_name(option), name - 1).ljust(name), "strong" if chosen else "text"),
        ]
        for term in terms:
            value = _seconds(getattr(option.score, term), glyphs)
            spans.append((f"{value:>{_TERM}}", "text" if term == "total" else "muted"))
        lines.append(tuple(spans))
    return lines


def _name(option: Option) -> str:
    place = f"{option.hive} {option.device}" if option.device else option.hive
    return option.worker_id if option.kind == "worker" and option.worker_id else place


def _seconds(value: float, glyphs: Glyphs) -> str:
    if not value:
        return glyphs.na
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _text(words: str, role: str, width: int) -> list[Line]:
    first, *rest = wrapped(words, width - 4)
    return [((f" {first}", role),), *(((f"   {row}", role),) for row in rest)]
