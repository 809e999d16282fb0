"""The contract's own checks: backends that keep it pass, and each way to break it is found."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from rbee import backend_contract, registry
from rbee.backend_api import BackendInfo, Done, Generation, LoadOptions, ModelFile, Piece
from rbee.backend_contract import Found, harness, tiny
from rbee.backend_contract.harness import Broken
from tests.support.shout import rbee_shout
from tests.support.shout.rbee_shout import Shout, ShoutModel

LOUD = ModelFile("loud", Path(rbee_shout.__file__), "shout")


def failed(found: list[Found]) -> dict[str, str]:
    return {one.name: one.words for one in found if one.state == "failed"}


def test_echo_keeps_the_contract(tmp_path):
    info = registry.load("echo")
    found = backend_contract.run(info, info.models()[0], scratch=tmp_path)
    assert tuple(one.name for one in found) == backend_contract.NAMES
    assert failed(found) == {}
    assert [one.name for one in found if one.state == "skipped"] == ["refuses damaged files"]


def test_mlx_keeps_the_contract(tmp_path):
    pytest.importorskip("mlx_lm", reason="the extra mlx is not installed")
    model = ModelFile("tiny", tiny.make(tmp_path / "tiny"), "safetensors")
    found = backend_contract.run(registry.load("mlx"), model, scratch=tmp_path)
    assert failed(found) == {}
    assert [one.name for one in found if one.state == "skipped"] == ["makes vectors"]


def test_a_backend_in_one_file_keeps_it_and_tells_as_it_goes(tmp_path):
    told: list[Found] = []
    found = backend_contract.run(rbee_shout.INFO, LOUD, scratch=tmp_path, tell=told.append)
    assert told == found
    assert failed(found) == {}


class Wrong(ShoutModel):
    """Breaks one clause, by what `fault` says."""

    fault = ""
    living: ClassVar[set[Wrong]] = set()
    """Those that were made and not closed."""

    def __init__(self, options: LoadOptions) -> None:
        super().__init__(options)
        self.living.add(self)

    def start(self, deliver):
        if self.fault == "start":
            raise ZeroDivisionError
        super().start(deliver)

    def close(self):
        super().close()
        self.living.discard(self)

    def run(self, request, cancelled: threading.Event) -> Iterator[object]:
        assert isinstance(request, Generation)
        if self.fault == "stop":
            request = replace(request, stop=())
        if self.fault == "limit":
            request = replace(request, max_tokens=None)
        if self.fault == "overflow" and len((request.prompt or "").split()) > self.ctx:
            request = replace(request, prompt="short")
        if self.fault == "grammar":
            request = replace(request, grammar=None)
        for item in super().run(request, cancelled):
            if isinstance(item, Done) and self.fault == "counts":
                yield replace(item, completion_tokens=item.completion_tokens + 1)
            elif isinstance(item, Done) and self.fault == "end":
                return
            elif isinstance(item, Piece) and self.fault == "halves":
                yield Piece(item.text + "\ud83d")
            elif isinstance(item, Piece) and self.fault == "chance":
                yield Piece(item.text + str(next(_COUNT)))
            elif isinstance(item, Piece) and self.fault == "raises":
                raise ZeroDivisionError
            else:
                yield item


_COUNT = iter(range(1_000_000))


class WrongBackend(Shout):
    def __init__(self, fault: str) -> None:
        self.fault = fault

    def load(self, model, options: LoadOptions, progress, cancelled):
        if self.fault == "device":
            options = replace(options, device="cpu")
        if self.fault == "uncancelled":
            cancelled = threading.Event()
        if self.fault == "silent":
            progress = lambda *_: None  # noqa: E731
        super().load(model, options, progress, cancelled)
        made = Wrong(options)
        made.fault = self.fault
        if self.fault == "slow":
            cancelled.wait(60)
        if self.fault == "ctx":
            made.ctx = 2 * options.ctx
        return made


def broken(fault: str) -> BackendInfo:
    continues = fault == "continues"
    return replace(rbee_shout.INFO, create=lambda: WrongBackend(fault), continues=continues)


@pytest.mark.parametrize(
    ("fault", "clause", "words"),
    [
        ("device", "takes no other device", "loaded on something else"),
        ("uncancelled", "gives up loading", "went on to its end"),
        ("silent", "loads", "told no progress"),
        ("ctx", "loads", "asked for 512"),
        ("start", "loads", "ZeroDivisionError"),
        ("counts", "answers", "its pieces"),
        ("limit", "keeps to max_tokens", "3 allowed"),
        ("chance", "repeats itself by seed", "in two ways"),
        ("stop", "stops at stop strings", "does not cut before it"),
        ("halves", "sends whole characters", "half a character"),
        ("overflow", "refuses what does not fit", "not CONTEXT_LENGTH_EXCEEDED"),
        ("grammar", "heeds or refuses a grammar", "under a grammar of one word"),
        ("continues", "goes on with an answer", "not the same in the end"),
        ("end", "answers", "INTERNAL_ERROR"),
        ("raises", "answers", "ZeroDivisionError"),
    ],
)
def test_each_way_to_break_it_is_found(tmp_path, fault, clause, words):
    found = failed(backend_contract.run(broken(fault), LOUD, scratch=tmp_path))
    assert words in found[clause]
    assert not Wrong.living


def test_a_load_that_takes_too_long_is_given_up_and_what_it_makes_is_closed(monkeypatch):
    monkeypatch.setattr(harness, "SECONDS", 0.02)
    with pytest.raises(Broken, match="loading did not end"):
        harness.load(broken("slow"), LOUD, LoadOptions(device="cpu", slots=1, ctx=64, threads=1))
    for thread in threading.enumerate():
        if thread.name == "load":
            thread.join(60)
    assert not Wrong.living


def test_one_that_takes_its_process_down_is_told_of(tmp_path):
    """As `rbee backend check` runs it: the process ends, and what had been found stands."""
    code = (
        "import os, dataclasses, sys, pathlib\n"
        "from rbee import backend_contract as contract, registry\n"
        "info = registry.load('echo')\n"
        "dying = dataclasses.replace(info, create=lambda: os._exit(9))\n"
        "contract.run(dying, info.models()[0], scratch=pathlib.Path(sys.argv[1]),\n"
        "             tell=lambda one: print(one.name, one.state, flush=True))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 9
    assert done.stdout.splitlines() == ["describes itself ok"]
