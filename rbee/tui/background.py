"""Whether the terminal's background is dark, as far as it says so.

Owns the two ways of finding out: the variable that some terminals set, and asking the terminal
itself before the app has it. Never waits longer than a quarter of a second.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import time
from collections.abc import Mapping

WAIT_SECONDS = 0.25
_ASK = b"\x1b]11;?\x1b\\\x1b[c"
"""OSC 11: the background's colour; and DA1, which every terminal answers, so that one that does not
know OSC 11 is not waited for (xterm, ctlseqs: Operating System Commands, Device Attributes)."""
_COLOUR = re.compile(rb"\x1b\]11;rgba?:([0-9a-fA-F]{1,4})/([0-9a-fA-F]{1,4})/([0-9a-fA-F]{1,4})")
_END = re.compile(rb"\x1b\[\?[0-9;]*c")


def background_is_dark(env: Mapping[str, str] = os.environ, fd: int | None = None) -> bool | None:
    """True, False, or None when nobody says. `fd`: a terminal that may be asked."""
    told = of_variable(env.get("COLORFGBG", ""))
    return told if told is not None or fd is None else _asked(fd)


def of_variable(text: str) -> bool | None:
    """`15;0` is dark, `0;15` light: the last is the background's number (rxvt, konsole)."""
    last = text.rpartition(";")[2]
    if not last.isdigit():
        return None
    return int(last) < 7 or int(last) == 8


def of_answer(answer: bytes) -> bool | None:
    """`…]11;rgb:1e1e/1919/1010…`: dark when its luma (ITU-R BT.601) is under a half."""
    found = _COLOUR.search(answer)
    if found is None:
        return None
    red, green, blue = (int(part, 16) / (16 ** len(part) - 1) for part in found.groups())
    return 0.299 * red + 0.587 * green + 0.114 * blue < 0.5


def _asked(fd: int) -> bool | None:
    try:
        import termios
        import tty
    except ImportError:  # Windows
        return None
    answer = b""
    with contextlib.suppress(OSError, termios.error):
        before = termios.tcgetattr(fd)
        try:
            tty.setcbreak(fd)
            os.write(fd, _ASK)
            until = time.monotonic() + WAIT_SECONDS
            while not _END.search(answer) and len(answer) < 4096:
                left = until - time.monotonic()
                if left <= 0 or not select.select([fd], [], [], left)[0]:
                    break
                answer += os.read(fd, 1024)
        finally:
            termios.tcsetattr(fd, termios.TCSAFLUSH, before)
    return of_answer(answer)
