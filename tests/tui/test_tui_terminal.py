"""The real `rbee` in a real terminal: first screen, an answer of the demo model, nothing left."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.home import Home, wait_for

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")


class Tmux:
    """A terminal of 80×24 on a server of its own."""

    def __init__(self, socket: Path, home: Home) -> None:
        self._base = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        self._env = home.env | {"TERM": "screen-256color"}
        self._run("new-session", "-d", "-x", "80", "-y", "24", "sh")
        self._run("set-option", "-g", "remain-on-exit", "on")
        self.keys(" ".join(home.command()), "Enter")

    def keys(self, *keys: str) -> None:
        """As tmux calls them; anything else is typed."""
        self._run("send-keys", *keys)

    def screen(self) -> str:
        """What is on it, as text."""
        return self._run("capture-pane", "-p")

    def shows(self, words: str, *, limit: float = 40.0) -> str:
        """Wait for it."""
        try:
            wait_for(lambda: words in self.screen(), limit=limit, what=words)
        except AssertionError as exc:
            raise AssertionError(f"{words!r} is not on\n{self.screen()}") from exc
        return self.screen()

    def end(self) -> None:
        """The server goes, and what it runs."""
        pids = self._run("display-message", "-p", "#{pid} #{pane_pid}").split()
        known = [psutil.Process(int(pid)) for pid in pids]
        subprocess.run([*self._base, "kill-server"], check=False, env=self._env)
        psutil.wait_procs(known, timeout=10)

    def _run(self, *args: str) -> str:
        done = subprocess.run(
            [*self._base, *args], check=True, env=self._env, capture_output=True, text=True
        )
        return done.stdout


@pytest.fixture
def tmux(home: Home, tmp_path: Path) -> Iterator[Tmux]:
    terminal = Tmux(tmp_path / "t", home)
    yield terminal
    terminal.end()


@needs_tmux
def test_from_the_first_screen_to_an_answer_and_nothing_left(home: Home, tmux: Tmux) -> None:
    first = tmux.shows("use this machine")
    assert "The queen is up." in first
    assert "⬢ rbee  ● queen :" in first
    assert "[1 Dash]" in first
    assert all(len(line) <= 80 for line in first.splitlines())
    tmux.keys("6")
    tmux.shows("[6 Chat]")
    tmux.shows("Ask something.")
    tmux.keys("-l", "Say hello.")
    tmux.keys("Enter")
    answered = tmux.shows("tok/s", limit=90.0)
    assert "Say hello." in answered
    (worker,) = home.workers()
    assert "smollm2-135m" in worker["model"]
    wait_for(lambda: home.get("/v1/jobs?state=completed")["jobs"], limit=60.0, what="the end")
    assert home.get("/v1/jobs?state=completed")["jobs"][0]["tokens_out"] > 0
    tmux.keys("C-q")
    tmux.shows("queen stopped")
    wait_for(lambda: len(home.processes()) == len(_shells(home)), what="nothing left but the shell")


def _shells(home: Home) -> list[object]:
    return [one for one in home.processes() if one.name() in ("sh", "tmux", "tmux: server")]
