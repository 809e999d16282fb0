"""`rbee web` in Debian's Chromium: the screens are drawn, keys reach them, strangers do not."""

from __future__ import annotations

import signal

import pytest

from tests.support.chromium import MISSING, Chromium
from tests.support.home import Home, wait_for

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def test_the_screens_are_drawn_in_a_browser_and_nobody_else_gets_in(home: Home):
    process = home.start("web")
    link = wait_for(lambda: "\n" in home.out(process) and home.out(process).strip())
    base = link.partition("?")[0]
    with Chromium(home.path / "browser") as chromium:
        page = chromium.page()
        page.go(link)
        page.shows("[1 Dash]")
        page.shows("queen is up")
        page.press("6")
        page.shows("[6 Chat]")

        stranger = chromium.page()
        stranger.go(link)
        stranger.until(lambda: "used already" in stranger.text(), "the refusal")
        stranger.go(page.run("location.href"))
        stranger.until(lambda: "not been let in" in stranger.text(), "the refusal")
        stranger.close()

        page.go(page.run("location.href"))
        page.shows("[1 Dash]")
        assert page.run("document.cookie") == ""
        asked = page.requests()
        assert any(one.startswith("ws:") for one in asked)
        own = (base, base.replace("http:", "ws:"), "data:,")
        assert not [one for one in asked if not one.startswith(own)]
        assert not page.complaints()

        queen = home.state
        page.press("q", control=True)
        page.until(lambda: "This screen has ended." in page.text(), "the end")
        assert home.state == queen
        assert home.get("/health")["status"] == "healthy"

        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, home.err(process)
    home.until_empty(20)
