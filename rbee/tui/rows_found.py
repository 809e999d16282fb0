"""What the hub has as rows: repositories of a search, and what of one of them can be fetched.

Pure functions from what the queen tells to rows and sentences; the dialog is `screens.finding`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rbee.model_words import count, need, recommended, split, usual_place
from rbee.output import size
from rbee.protocol.models import Choice, FoundModel
from rbee.tui.glyphs import Glyphs
from rbee.tui.widgets.lines import Span
from rbee.tui.widgets.table import Column, Row

REPOSITORIES = (
    Column("repo", "repository", 38, grow=True, least=18),
    Column("parameters", "size", 7),
    Column("loads", "fetched", 9, extra=True),
    Column("fits", "fits here", 27, grow=True, least=14),
)
CHOICES = (
    Column("quant", "what", 13, grow=True, least=9),
    Column("size", "size", 9),
    Column("need", "memory", 10),
    Column("fits", "fits", 40, grow=True, least=16),
)
_REF = re.compile(r"(?:hf:)?(?P<rest>[\w.-]+/[\w.-]+(?:[:@]\S+)?)")
_URL = re.compile(
    r"https?://[^/\s]+/(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:/(?:blob|resolve)/(?P<revision>[^/\s]+)/(?P<file>[^?#\s]+)|/tree/\S+)?/?(?:[?#]\S*)?"
)


def reference(text: str) -> str | None:
    """`hf:org/repo…` for what is one, also as an address of a hub's page; None: words to find."""
    if match := _URL.fullmatch(text):
        if match["file"]:
            return f"hf:{match['repo']}@{match['revision']}::{match['file']}"
        return f"hf:{match['repo']}"
    if match := _REF.fullmatch(text):
        return f"hf:{match['rest']}"
    return None


def ordered(choices: Sequence[Choice]) -> list[Choice]:
    """The smallest first."""
    return sorted(choices, key=lambda choice: choice.size)


def best_of(choices: Sequence[Choice]) -> Choice | None:
    """The one that a cursor begins on: what would be recommended, else the most usual."""
    return recommended(choices) or min(choices, key=usual_place, default=None)


def repository_row(found: FoundModel, glyphs: Glyphs) -> Row:
    """A repository of a search."""
    best = recommended(found.choices)
    if best is None:
        words: Span = ("nothing in it for us", "muted")
        if any(choice.too_big for choice in found.choices):
            words = ("too big", "bad")
    elif best.here:
        words = (f"{best.quant or best.ref} is here", "ok")
    else:
        words = (f"{best.quant or found.format} {size(best.size)} {best.fits[0]}", "text")
    lead = "gated, " if found.gated else ""
    good = best is not None
    return Row(
        key=found.repo,
        mark=(glyphs.done if good else glyphs.failed, "ok" if good else "bad"),
        cells={
            "repo": (found.repo, "strong"),
            "parameters": (count(found.parameters) if found.parameters else glyphs.na, "text"),
            "loads": (f"{glyphs.down} {count(found.downloads)}", "muted"),
            "fits": (lead + words[0], words[1]),
        },
    )


def choice_row(choice: Choice, glyphs: Glyphs) -> Row:
    """A quantisation, or all of a repository's safetensors."""
    good = bool(choice.here) or (bool(choice.fits) and not split(choice))
    return Row(
        key=choice.ref,
        mark=(glyphs.done if good else glyphs.failed, "ok" if good else "bad"),
        cells={
            "quant": (choice.quant or file_of(choice), "strong"),
            "size": (size(choice.size), "text"),
            "need": (need(choice), "text"),
            "fits": (fits_words(choice), "text" if good else "muted"),
        },
    )


def file_of(choice: Choice) -> str:
    """What is meant where there is no quantisation."""
    return choice.ref.partition("::")[2].rpartition("/")[2] or "all of it"


def fits_words(choice: Choice) -> str:
    """Where it would run."""
    if choice.here:
        return f"here: {', '.join(choice.here)}"
    if split(choice):
        return f"nowhere: in {choice.files} files, GGUF is loaded from one"
    if choice.fits:
        return ", ".join(choice.fits)
    if choice.too_big:
        return f"too big for {', '.join(choice.too_big)}"
    return "nowhere: no machine here runs this kind of file"


def about(found: FoundModel) -> str:
    """A repository in one sentence."""
    parts = [
        found.repo,
        found.task or "",
        found.format,
        f"{count(found.parameters)} parameters" if found.parameters else "",
        "gated: its page asks you to accept terms first" if found.gated else "",
    ]
    return ", ".join(part for part in parts if part)


def refusal(choice: Choice) -> str:
    """Why it cannot be taken at all; empty: it can."""
    return fits_words(choice) if split(choice) and not choice.here else ""
