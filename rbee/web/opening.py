"""Opening the user's browser, without a word of the link in a command line that others can read.

The browser is given a file of this user's, which leads to the link. Owns that file.
"""

from __future__ import annotations

import contextlib
import html
import os
import sys
import webbrowser
from pathlib import Path

from rbee.paths import make_private


class Door:
    """A file that sends the browser on. Gone once `shut`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.html"

    def lead_to(self, url: str) -> None:
        """Write it, for its owner only. Raises Forbidden, OSError."""
        make_private(self.path.parent)
        self.shut()
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(
                '<!DOCTYPE html><meta charset="utf-8"><title>rbee</title>'
                f'<meta http-equiv="refresh" content="0;url={html.escape(url)}">'
            )

    def shut(self) -> None:
        """Take it away; harmless when it is not there."""
        with contextlib.suppress(OSError):
            self.path.unlink()

    def open(self) -> bool:
        """Have a browser open it; False where there is none with a window. Blocks for moments."""
        if not has_window():
            return False
        try:
            return webbrowser.open(self.path.as_uri())
        except (webbrowser.Error, OSError):
            return False


def has_window() -> bool:
    """Whether a browser could show itself: a text browser would take the terminal from us."""
    if not sys.platform.startswith("linux"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
