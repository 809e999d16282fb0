"""`rbee model search`: what the hub has, how large it is, and what of it fits where here.

Owns how a repository of the hub is told; `rbee model show` tells one in the same way, in full.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rbee.commands.common import ask
from rbee.commands.tables import clip, names, room, table
from rbee.errors import InvalidRequest
from rbee.model_words import count, need, recommended, split, usual_place
from rbee.narration import printable
from rbee.output import print_json, size
from rbee.protocol.models import Choice, FoundModel, Search

SHOWN = 6
"""Choices of a repository in a search; `rbee model show` has all."""
LONGEST = 200
_INDENT = "  "


def run(text: str, *, limit: int, as_json: bool) -> int:
    """`rbee model search TEXT`"""
    if not text.strip() or len(text) > LONGEST or not printable(text).strip():
        raise InvalidRequest(
            f"a search has 1 to {LONGEST} characters", action="rbee model search smollm2"
        )
    found = ask(lambda queen: queen.search(text, limit=limit))
    if as_json:
        print_json(found)
        return 0
    if not found.models:
        sys.stderr.write(
            f"Nothing at {printable(found.endpoint)} for {printable(text)!r} that could run here"
            " (GGUF or safetensors). Try fewer or other words.\n"
        )
        return 0
    sys.stdout.write("\n".join(told(found, width=room())) + "\n")
    return 0


def told(found: Search, *, width: int | None) -> list[str]:
    """All repositories, with an empty line between two."""
    out: list[str] = []
    for one in found.models:
        out += ([""] if out else []) + repository(one, width=width, shown=SHOWN)
    return out


def repository(found: FoundModel, *, width: int | None, shown: int | None = None) -> list[str]:
    """Its name, what it is, a line for each choice, and the command that fetches the best one."""
    out = [printable(found.repo), clip(_INDENT + printable(_about(found)), width)]
    choices = _first(found.choices, shown)
    if not choices:
        out.append(f"{_INDENT}nothing in it that rbee could run")
        return out
    out += [_INDENT + line for line in _choices(choices, None if width is None else width - 2)]
    hidden = len(found.choices) - len(choices)
    if hidden:
        out.append(f"{_INDENT}… and {hidden} more: rbee model show hf:{printable(found.repo)}")
    best = recommended(found.choices)
    if best is None:
        what = "fits" if any(c.too_big for c in choices) else "can run on"
        out.append(clip(f"{_INDENT}none of it {what} a machine of this colony", width))
    elif best.here:
        out.append(f'{_INDENT}rbee infer --model {printable(best.ref)} "…"')
    else:
        out.append(f"{_INDENT}rbee model download {printable(best.ref)}")
    return out


def _about(found: FoundModel) -> str:
    parts = [
        found.task or "task not told",
        found.format,
        f"{count(found.parameters)} parameters" if found.parameters else "",
        f"{count(found.downloads)} downloads",
        "gated: its page asks you to accept terms" if found.gated else "",
    ]
    return " · ".join(part for part in parts if part)


def _choices(choices: Sequence[Choice], width: int | None) -> list[str]:
    left = [[_named(c, width), size(c.size), need(c)] for c in choices]
    used = sum(
        max(len(row[i]) for row in [["quant", "size", "needs"], *left]) + 2 for i in range(3)
    )
    space = None if width is None else max(20, width - used)
    rows = [[*row, _where(c, space)] for row, c in zip(left, choices, strict=True)]
    return [clip(line, width) for line in table(["quant", "size", "needs", "fits"], rows)]


def _where(choice: Choice, width: int | None) -> str:
    if choice.here:
        return f"here: {names(choice.here, None if width is None else width - 6)}"
    if split(choice):
        return f"nowhere: in {choice.files} files, and rbee loads GGUF from one"
    if choice.fits:
        return names(choice.fits, width)
    if choice.too_big:
        return f"too big for {names(choice.too_big, None if width is None else width - 12)}"
    return "nowhere: no machine here runs this kind of file"


def _named(choice: Choice, width: int | None) -> str:
    """Its quantisation; where that is not known, the file that is meant."""
    file = printable(choice.ref.partition("::")[2].rpartition("/")[2])
    return choice.quant or (clip(file, None if width is None else width // 2) or "·")


def _first(choices: Sequence[Choice], shown: int | None) -> list[Choice]:
    """So many of the most usual, the smallest first."""
    picked = sorted(choices, key=lambda c: (usual_place(c), c.size))[:shown]
    return sorted(picked, key=lambda c: c.size)
