"""Debian's Chromium without a window for a test, driven over a pipe (Chrome DevTools Protocol).

Owns the browser's process. `Page` is one tab in a profile of its own: it sees no other's cookies.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = "" if CHROMIUM else "Debian's chromium is not installed"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--no-proxy-server", "--remote-debugging-pipe", "--mute-audio"),
)
_ON_3_AND_4 = (
    "import os,sys; r,w,*a=sys.argv[1:]; os.dup2(int(r),3); os.dup2(int(w),4); os.execv(a[0],a)"
)
_SEEN = """
Object.defineProperty(Object.prototype, "_core", {configurable: true, set(core) {
  Object.defineProperty(this, "_core", {value: core, writable: true, configurable: true});
  (globalThis.seen ??= []).push(this);
}});
"""
"""Finds xterm.js' terminal, which its page keeps to itself: each has its parts in `_core`."""
_LINES = """
(() => {
  const buffer = (globalThis.seen ?? []).find(one => one.buffer?.active)?.buffer.active;
  if (!buffer) return [];
  return Array.from({length: buffer.length}, (_, y) => buffer.getLine(y).translateToString(true));
})()
"""


class Chromium:
    """One browser process and its children. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        folder.mkdir(parents=True, exist_ok=True)
        commands, self._commands = os.pipe()
        self._replies, replies = os.pipe()
        run = [sys.executable, "-I", "-S", "-c", _ON_3_AND_4, str(commands), str(replies)]
        with (folder / "chromium.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*run, CHROMIUM, *FLAGS, f"--user-data-dir={folder}/profile"],
                env={"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"},
                pass_fds=(commands, replies), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        os.close(commands)
        os.close(replies)
        self._number = 0
        self._rest = b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError, EOFError, TimeoutError):
            self.call("Browser.close")
            self.process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        os.close(self._commands)
        os.close(self._replies)

    def call(
        self, method: str, session: str | None = None, limit: float = 20.0, **params: Any
    ) -> dict[str, Any]:
        """One command and its result."""
        self._number += 1
        words: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session is not None:
            words["sessionId"] = session
        os.write(self._commands, json.dumps(words).encode() + b"\0")
        for message in self._messages(limit):
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)
        raise EOFError("chromium has ended")

    def _messages(self, limit: float) -> Iterator[dict[str, Any]]:
        deadline = time.monotonic() + limit
        while True:
            while b"\0" in self._rest:
                one, _, self._rest = self._rest.partition(b"\0")
                yield json.loads(one)
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._replies], [], [], left)[0]:
                raise TimeoutError(f"chromium says nothing for {limit} s")
            more = os.read(self._replies, 1 << 20)
            if not more:
                return
            self._rest += more

    def page(self, width: int = 1280, height: int = 720) -> Page:
        """An empty tab in a fresh profile."""
        return Page(self, width, height)


class Page:
    """One tab."""

    def __init__(self, browser: Chromium, width: int, height: int) -> None:
        self._browser = browser
        self._profile = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call(
            "Target.createTarget", url="about:blank", browserContextId=self._profile,
            width=width, height=height,
        )["targetId"]  # fmt: skip
        attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=_SEEN)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command to this tab."""
        return self._browser.call(method, self._session, **params)

    def go(self, url: str) -> None:
        """Open an address."""
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, condition: Callable[[], T | None], what: str, limit: float = 45.0) -> T:
        """The condition's first true value."""
        deadline = time.monotonic() + limit
        while not (value := condition()):
            assert time.monotonic() < deadline, f"not within {limit} s: {what}; {self.told()}"
            select.select([], [], [], 0.05)
        return value

    def lines(self) -> list[str]:
        """What the terminal shows."""
        return self.run(_LINES) or []

    def shows(self, words: str) -> None:
        """Wait until the terminal shows them."""
        self.until(lambda: any(words in line for line in self.lines()), f"{words!r} on the screen")

    def text(self) -> str:
        """The page's text."""
        return self.run("document.body?.innerText ?? ''")

    def told(self) -> dict[str, Any]:
        """For a failure."""
        return {"text": self.text()[-400:], "lines": self.lines(), "log": self.complaints()}

    def press(self, key: str, *, control: bool = False) -> None:
        """One printable key."""
        code, held = ord(key.upper()), 2 if control else 0
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" and not control else {}
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, modifiers=held,
                windowsVirtualKeyCode=code, **text,
            )  # fmt: skip

    def close(self) -> None:
        """Close the tab and forget its profile."""
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._profile)

    def picture(self, path: Path) -> None:
        """A screenshot (PNG)."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _events(self, method: str) -> list[dict[str, Any]]:
        found = self._browser.events
        return [
            one["params"]
            for one in found
            if one.get("method") == method and one.get("sessionId") == self._session
        ]

    def requests(self) -> list[str]:
        """Every address the tab asked for."""
        loads = [one["request"]["url"] for one in self._events("Network.requestWillBeSent")]
        return loads + [one["url"] for one in self._events("Network.webSocketCreated")]

    def complaints(self) -> list[str]:
        """Errors of the page and what its policy kept it from."""
        logged = [one["entry"] for one in self._events("Log.entryAdded")]
        errors = [one["text"] for one in logged if one["level"] == "error"]
        thrown = [one["exceptionDetails"] for one in self._events("Runtime.exceptionThrown")]
        return errors + [json.dumps(one)[:300] for one in thrown]
