"""What a line of a log says: its time, its level and its words.

Knows how rbee's daemons write (text and JSON, with and without dates); everything else is a
process's output. Pure. Times of day are taken as this machine's: text logs name no zone.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any, cast

from rbee.tui.cells import safe
from rbee.tui.logbook import Level

LONGEST = 4000
"""Characters of a line that are kept."""
AHEAD = 60.0
"""Seconds that another machine's clock may be ahead of ours."""
DAY = 86400.0

_WORDS = {
    "DEBUG": Level.DEBUG,
    "INFO": Level.INFO,
    "WARN": Level.WARN,
    "WARNING": Level.WARN,
    "ERROR": Level.ERROR,
    "CRITICAL": Level.ERROR,
}
_LEVEL = rf"(?P<level>{'|'.join(_WORDS)})"
_TIMED = re.compile(
    r"(?:(?P<date>\d{4}-\d\d-\d\d)[ T])?(?P<h>\d\d):(?P<m>\d\d):(?P<s>\d\d)"
    rf"(?:[,.](?P<part>\d{{1,6}})\d*)?(?P<utc>Z)?\s+(?:{_LEVEL}\s+)?(?P<text>.*)"
)
_BARE = re.compile(rf"{_LEVEL}\s+(?P<text>.*)")
_BAD = re.compile(
    r"\b(?:error|fatal|panic|exception|traceback|segmentation fault|out of memory|aborted)\b",
    re.IGNORECASE,
)
"""Words by which a process's output counts as an error."""
_NARRATED = re.compile(r"(?P<source>[\w.-]{1,64}): (?P<text>.+)")
_REQUEST = re.compile(r" correlation_id=\S+$")
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)")
"""ECMA-48: control sequences, and operating system commands such as titles and links."""
_OWN = frozenset({"at", "level", "logger", "message", "traceback"})


@dataclass(frozen=True, slots=True)
class Parsed:
    """`at`: UTC seconds or None; `level`: None where the line names none."""

    at: float | None
    level: Level | None
    text: str
    fine: bool = True


def parse(line: str, now: float) -> Parsed:
    """One line. `now`: UTC seconds, for times without a date."""
    cut = line[:LONGEST]
    if cut.startswith("{") and (found := _from_json(line)) is not None:
        return found
    more = f" (cut: {len(line)} characters)" if len(line) > LONGEST else ""
    if (match := _TIMED.match(cut)) is not None:
        at = _time(match, now)
        if at is not None:
            level = _WORDS.get(match["level"] or "")
            return Parsed(at, level, clean(match["text"]) + more, fine=match["part"] is not None)
    if (match := _BARE.match(cut)) is not None:
        return Parsed(None, _WORDS[match["level"]], clean(match["text"]) + more)
    return Parsed(None, None, clean(cut) + more)


def narrated(text: str, names: set[str]) -> tuple[str, str] | None:
    """(who, what) of a line of the queen's log that repeats narration; `names`: who may narrate."""
    match = _NARRATED.match(text)
    if match is None or match["source"] not in names:
        return None
    return match["source"], _REQUEST.sub("", match["text"])


def level_of_output(text: str) -> Level:
    """Of a line that names none."""
    return Level.ERROR if _BAD.search(text) else Level.OUTPUT


def level_of_narration(level: str) -> Level:
    """Narration's words for it."""
    return _WORDS.get(level.upper(), Level.INFO)


def clean(text: str) -> str:
    """On one line, safe for a terminal, without the colours a process gave it."""
    if "\x1b" in text:
        text = _SEQUENCE.sub("", text)
    return safe(text.expandtabs(4))


def _time(match: re.Match[str], now: float) -> float | None:
    """UTC seconds; a time without a date is the last one that has been."""
    hour, minute, second = int(match["h"]), int(match["m"]), int(match["s"])
    if hour > 23 or minute > 59 or second > 60:
        return None
    if match["date"] is None:
        year, month, day = time.localtime(now)[:3]
    else:
        year, month, day = (int(part) for part in match["date"].split("-"))
    try:
        at = time.mktime((year, month, day, hour, minute, second, 0, 0, -1))
        if match["utc"]:
            at += time.localtime(at).tm_gmtoff
    except (OverflowError, ValueError):
        return None
    if match["date"] is None and at > now + AHEAD:
        at -= DAY
    return at + (float(f"0.{match['part']}") if match["part"] else 0.0)


def _from_json(line: str) -> Parsed | None:
    """A line of a daemon that logs JSON; None: it is something else."""
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(raw, dict):
        return None
    said = cast("dict[str, Any]", raw)
    level, message, at = said.get("level"), said.get("message"), said.get("at")
    if not isinstance(level, str) or not isinstance(message, str):
        return None
    if level.upper() not in _WORDS or not isinstance(at, int | float) or not 0 <= at < 1e11:
        return None
    fields = " ".join(f"{k}={v}" for k, v in said.items() if k not in _OWN and k != "logger")
    last = str(said.get("traceback") or "").strip().rpartition("\n")[2]
    text = " ".join(part for part in (message, fields, last) if part)
    cut = f" (cut: {len(text)} characters)" if len(text) > LONGEST else ""
    return Parsed(float(at), _WORDS[level.upper()], clean(text[:LONGEST]) + cut)
