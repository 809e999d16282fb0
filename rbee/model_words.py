"""What is said of models in few words: where they come from, what of a repository is usual.

Owns the words that the command line and the screens share. Pure: asks nobody and prints nothing.
What came from elsewhere is as it came: whoever shows it makes it printable.
"""

from __future__ import annotations

from collections.abc import Sequence

from rbee.output import size
from rbee.protocol.models import Choice

PROVIDERS = {
    "hf": "the hub",
    "file": "a file of yours",
    "pkg": "an installed package",
    "ollama": "Ollama",
    "lmstudio": "LM Studio",
    "hf-cache": "the hub cache",
    "copy": "another hive",
}
USUAL = ("Q4_K_M", "Q5_K_M", "Q4_0", "Q5_0", "Q8_0", "F16")
"""The order in which a quantisation is chosen where none is named."""


def recommended(choices: Sequence[Choice]) -> Choice | None:
    """What is there already, else the usual one that fits, else None."""
    able = [c for c in choices if c.here or (not split(c) and c.fits)]
    return min(able, key=lambda c: (not c.here, usual_place(c), c.size), default=None)


def count(number: int) -> str:
    """A count for people: `950`, `12 k`, `1.2 M`."""
    value, unit = float(number), ""
    for larger in ("k", "M", "B", "T"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    if not unit:
        return str(number)
    return f"{value:.0f} {unit}" if value >= 9.95 else f"{value:.1f} {unit}"


def split(choice: Choice) -> bool:
    """A GGUF in several files; what has no quantisation is a folder of safetensors."""
    return choice.quant is not None and choice.files > 1


def need(choice: Choice) -> str:
    """The memory it takes, as far as is known."""
    if not choice.need_bytes:
        return "·"
    return f"{'≥ ' if choice.need_at_least else ''}{size(choice.need_bytes)}"


def usual_place(choice: Choice) -> int:
    """How usual it is; 0 is the most usual."""
    quant = (choice.quant or "").upper()
    return USUAL.index(quant) if quant in USUAL else len(USUAL)
