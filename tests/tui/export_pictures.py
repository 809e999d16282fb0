"""Writes the pictures the README shows: `python tests/tui/export_pictures.py docs`.

The same states as the picture tests, so that what is shown is what is tested.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from pathlib import Path

os.environ |= {"TZ": "UTC", "TEXTUAL_ANIMATIONS": "none"}
time.tzset()

import colony_data as data  # noqa: E402
from colony_double import ColonyDouble  # noqa: E402
from screen_driver import Clock, app_for  # noqa: E402
from screen_states import dashboard, mid_answer  # noqa: E402

SIZE = (160, 45)


async def dashboard_picture() -> str:
    """The dashboard of four machines, as SVG."""
    with ColonyDouble(data.full(), after=data.telemetry()) as double:
        app = app_for(double)
        async with app.run_test(size=SIZE, notifications=True) as pilot:
            await dashboard(pilot)
            return app.export_screenshot(title="rbee")


async def chat_picture() -> str:
    """A chat while the answer is coming, as SVG."""
    clock, first, rest = Clock(), threading.Event(), threading.Event()
    pieces = data.tokens()
    script = [data.started(), first, *pieces[:70], rest]
    with ColonyDouble(data.full(), script=script) as double:
        app = app_for(double, clock=clock)
        async with app.run_test(size=(110, 32), notifications=True) as pilot:
            await mid_answer(clock, first, 70)(pilot)
            return app.export_screenshot(title="rbee")


def main() -> None:
    """Write both into the folder named on the command line."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    for name, picture in (("dashboard", dashboard_picture), ("chat", chat_picture)):
        (folder / f"{name}.svg").write_text(asyncio.run(picture()), "utf-8", newline="\n")


if __name__ == "__main__":
    main()
