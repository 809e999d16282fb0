"""What a terminal tells of its background, and that it is sent no more colours than it has."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

from rbee.tui.background import background_is_dark


@pytest.mark.parametrize(
    ("answer", "dark"),
    [
        (b"\x1b]11;rgb:1414/1111/0b0b\x1b\\\x1b[?62;22c", True),
        (b"\x1b]11;rgb:ffff/f9f9/ecec\x07\x1b[?6c", False),
        (b"\x1b]11;rgba:f/f/f/f\x07", False),
        (b"\x1b[?1;2c", None),
    ],
)
def test_the_terminal_tells_its_background(answer: bytes, dark: bool | None) -> None:
    ours, theirs = pty.openpty()

    def answers() -> None:
        asked = b""
        while not asked.endswith(b"\x1b[c"):
            asked += os.read(ours, 64)
        os.write(ours, answer)

    terminal = threading.Thread(target=answers)
    terminal.start()
    try:
        assert background_is_dark({}, theirs) is dark
    finally:
        terminal.join(10)
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(
    ("text", "dark"), [("15;0", True), ("0;15", False), ("0;default;7", False), ("", None)]
)
def test_a_variable_tells_the_background(text: str, dark: bool | None) -> None:
    assert background_is_dark({"COLORFGBG": text}) is dark


def test_sixteen_colours_are_enough(tmp_path: Path) -> None:
    """The real app in a terminal that has no more: no other colour is ever sent."""
    code = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "from screen_driver import app_for\n"
        "app = app_for(None)\n"
        "app.call_later(app.set_timer, 0.5, app.exit)\n"
        "app.run()\n"
    )
    env = {
        **os.environ, "TERM": "xterm", "TEXTUAL_COLOR_SYSTEM": "standard",
        "RBEE_HOME": str(tmp_path),
    }  # fmt: skip
    env.pop("NO_COLOR", None)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    here = str(Path(__file__).parent)
    process = subprocess.Popen(
        [sys.executable, "-c", code, here], stdin=theirs, stdout=theirs, stderr=theirs, env=env
    )
    os.close(theirs)
    out = b""
    with contextlib.suppress(OSError):  # the other end is gone
        while chunk := os.read(ours, 65536):
            out += chunk
    assert process.wait(20) == 0
    os.close(ours)
    assert b"rbee" in out
    styles = re.findall(rb"\x1b\[([0-9;]*)m", out)
    assert any(re.search(rb"(^|;)(3[0-7]|9[0-7])(;|$)", style) for style in styles)
    assert not [style for style in styles if re.search(rb"(^|;)[34]8;[25];", style)]
