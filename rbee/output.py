"""What commands print: tables for people, JSON for programs, errors on two lines.

Data goes to stdout, errors to stderr (with `--json`: the error body to stdout, since it is then the
answer). Exit codes are the errors' own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rbee.errors import RbeeError


def print_json(value: object) -> None:
    """Structs or plain values as indented JSON."""
    import msgspec  # 20 ms

    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    sys.stdout.write(text + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Aligned columns; when there is nothing, what to do next (on stderr: stdout stays data).

    On a terminal a line that does not fit ends with `…`; a pipe gets all of it.
    """
    import shutil  # 10 ms

    from rbee.narration import printable

    if not rows:
        sys.stderr.write(empty + "\n")
        return
    clean = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *clean, strict=True)]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for line in ([c.upper() for c in columns], *clean):
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        text = "  ".join(cells).rstrip()
        if room and len(text) > room:
            text = text[: room - 1] + "…"
        sys.stdout.write(text + "\n")


def print_error(error: RbeeError, *, as_json: bool = False) -> None:
    """Two lines on stderr: what happened, what to do; or the body on stdout."""
    if as_json:
        print_json(error.body())
        return
    from rbee.narration import printable

    sys.stderr.write(f"error {error.code}: {printable(error.message)}\n")
    sys.stderr.write(f"  → {printable(error.action)}\n")


def size(count: float) -> str:
    """Bytes for people: `94 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB", "MB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def amounts(done: float, total: float) -> str:
    """`412 of 986 MB`, in the unit of the whole."""
    whole = size(total)
    unit = whole.partition(" ")[2]
    part = done / _UNITS[unit]
    return f"{part:.{0 if unit in ('B', 'kB', 'MB') else 1}f} of {whole}"


_UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def duration(seconds: float) -> str:
    """Seconds for people: `4.2 s`, `12 min`, `3 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def milliseconds(count: float) -> str:
    """Milliseconds for people: `8 ms`, `4.2 s`, `12 min`."""
    return f"{count:.0f} ms" if count < 1000 else duration(count / 1000)


def moment(utc: float) -> str:
    """A UTC time for people: local, with the date when that is not today."""
    then = time.localtime(utc)
    today = time.localtime()[:3] == then[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", then)
