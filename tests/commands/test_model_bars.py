"""Models on their way, as a terminal shows them and as a file gets them."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from rbee.commands.bars import Bar, Bars, Screen, drawing

MESSAGE = (
    "downloading Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M to gaming-pc:"
    " 412 of 986 MB, 38 MB/s, 15 s left"
)


class Terminal(io.StringIO):
    """Collects what is written, as a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def plain(text: str) -> str:
    """Without what steers the terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.fixture(autouse=True)
def _a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.parametrize("width", [64, 80, 160])
def test_a_bar_has_its_figures_whole(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    with console.capture() as captured:
        console.print(drawing([Bar.of(MESSAGE, 0.418), Bar.of("downloading B: 1 of 2 MB", 0.5)]))
    lines = captured.get().splitlines()
    assert len(lines) == 4
    assert all(len(line) <= width for line in lines)
    assert "42%" in lines[1]
    assert lines[1].rstrip().endswith("412 of 986 MB, 38 MB/s, 15 s left")
    assert lines[3].rstrip().endswith("50% 1 of 2 MB")
    assert lines[2] == "rbee: downloading B"


def test_a_message_without_figures_is_a_title() -> None:
    assert Bar.of("downloading it", 7.0) == Bar("downloading it", "", 1.0)
    assert Bar.of("x\x1b[2Jy: 1\n2", -1.0) == Bar("x[2Jy", "1 2", 0.0)


def test_two_at_once_have_a_bar_each_and_leave_nothing_behind() -> None:
    out = Terminal()
    bars = Bars(out=out)
    one, two = bars.beside("one"), bars.beside("two")
    one.progress("downloading one: 1 of 4 MB", 0.25, stage="downloading")
    two.progress("downloading two: 3 of 4 MB", 0.75, stage="downloading")
    last = plain(out.getvalue().rpartition("\r")[2])
    both = plain(out.getvalue())
    assert both.rindex("downloading one") < both.rindex("downloading two")
    assert "75%" in last
    out.truncate(0)
    one.say("one is there")
    assert "rbee: one is there\n" in plain(out.getvalue()).replace("\r", "")
    out.truncate(0)
    two.progress("downloading two: 4 of 4 MB", 1.0, stage="downloading")
    assert "downloading one" not in out.getvalue()
    assert "100%" in out.getvalue()
    bars.clear()
    assert "\x1b[?25h" in out.getvalue()
    out.truncate(0)
    bars.say("end")
    assert plain(out.getvalue()).lstrip("\x00\r") == "rbee: end\n"


def test_loading_after_a_download_is_the_usual_progress() -> None:
    out = Terminal()
    bars = Bars(out=out)
    bars.progress(MESSAGE, 0.5, stage="downloading")
    bars.progress("loading", 0.5, stage="loading")
    assert plain(out.getvalue()).endswith("rbee: loading ━━━━━━━━━━────────── " + " 50%")
    bars.clear()
    assert "\x1b[?25h" in out.getvalue()


def test_a_file_gets_a_line_every_few_seconds() -> None:
    out, clock = io.StringIO(), Clock()
    bars = Bars(out=out, screen=Screen(out, clock))
    one, two = bars.beside("one"), bars.beside("two")
    for step in range(30):
        clock.now = 100.0 + step / 2
        one.progress(f"downloading one: {step} of 30 MB", step / 30, stage="downloading")
        if step % 10 == 0:
            two.progress(f"downloading two: {step} of 30 MB", step / 30, stage="downloading")
    lines = out.getvalue().splitlines()
    assert [line for line in lines if "one" in line] == [
        "rbee: downloading one: 0 of 30 MB (0%)",
        "rbee: downloading one: 10 of 30 MB (33%)",
        "rbee: downloading one: 20 of 30 MB (67%)",
    ]
    assert len(lines) == 6
    one.progress("verifying one", 0.1, stage="verifying")
    assert out.getvalue().endswith("rbee: verifying one (10%)\n")
    assert "\x1b" not in out.getvalue()


def test_each_stage_counts_its_tenths_from_the_start() -> None:
    out = io.StringIO()
    bars = Bars(out=out)
    for stage in ("loading", "warming"):
        for step in range(101):
            bars.progress(f"{stage} {step}", step / 100, stage=stage)
    assert len(out.getvalue().splitlines()) == 22


def test_quiet_says_nothing_and_still_knows_what_is_kept() -> None:
    out = Terminal()
    bars = Bars(quiet=True, out=out)
    one = bars.beside("one")
    one.progress(MESSAGE, 0.5, stage="downloading")
    assert (out.getvalue(), bars.kept) == ("", True)
    one.progress("loading", 0.5, stage="loading")
    assert (out.getvalue(), bars.kept) == ("", False)


def test_what_is_kept_is_told_of_transfers_only() -> None:
    bars = Bars(out=io.StringIO())
    assert not bars.kept
    bars.beside("a").progress("verifying", 0.5, stage="verifying")
    assert not bars.kept
    two = bars.beside("b")
    two.progress("copying", 0.5, stage="copying")
    assert bars.kept
    two.say("b is there")
    assert not bars.kept


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    bars = Bars(out=out)
    bars.progress(MESSAGE, 0.5, stage="downloading")
    assert out.getvalue() == f"rbee: {MESSAGE} (50%)\n"


def test_data_has_room() -> None:
    out = Terminal()
    bars = Bars(out=out)
    one = bars.beside("one")
    one.progress(MESSAGE, 0.5, stage="downloading")
    bars.make_room()
    assert "\x1b[?25h" in out.getvalue()
    assert bars.kept
    out.truncate(0)
    one.progress(MESSAGE, 0.6, stage="downloading")
    assert "60%" in out.getvalue()
    bars.clear()
