"""Conversations on disk: nothing is lost by a kill, a full disk, a damaged file, or two writers."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rbee.errors import Conflict, Local, NotFound, PayloadTooLarge
from rbee.tui import talk_files
from rbee.tui.answer import Answer, Phase
from rbee.tui.sampling import Sampling
from rbee.tui.talk import Dialogue, Exchange, Talk, dialogue
from rbee.tui.talk_files import Shelf, new_id

ID = "c-20260101-000000-abcdef"


def talk(title: str = "why?", revision: int = 1, at: float = 5.0) -> Talk:
    answers = [Answer(prompt=title, model="m", asked_at=1.0) for _ in range(2)]
    answers[0].text, answers[0].phase = ["half an"], Phase.STREAMING
    answers[1].text, answers[1].phase = ["whole"], Phase.DONE
    answers[1].error = Local("no", action="go")
    return Dialogue(
        id=ID,
        created_at=1.0,
        changed_at=at,
        revision=revision - 1,
        model="m",
        sampling=Sampling(temperature=0.1),
        exchanges=[Exchange(title, answers, chosen=None)],
    ).talk()


def test_what_was_written_is_read_and_what_was_coming_is_interrupted(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "chats")
    assert shelf.listing() == ([], [])
    shelf.save(ID, talk())
    path = shelf.folder / f"{ID}.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert shelf.folder.stat().st_mode & 0o777 == 0o700
    assert os.listdir(shelf.folder) == [path.name]
    read = dialogue(ID, shelf.load(ID))
    first, second = read.exchanges[0].answers
    assert (first.phase, first.body()) == (Phase.INTERRUPTED, "half an")
    assert (second.phase, second.body()) == (Phase.DONE, "whole")
    assert second.error is not None
    assert (second.error.message, second.error.action) == ("no", "go")
    assert (read.exchanges[0].chosen, read.sampling.temperature) == (None, 0.1)


def test_the_newest_comes_first_and_deleted_ones_are_gone(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    ids = [f"c-20260101-000000-00000{at}" for at in range(3)]
    for at, id_ in enumerate(ids):
        shelf.save(id_, talk(f"chat {at}\x1b[2J", at=float(at)))
    (tmp_path / "notes.json").write_text("{}")
    found, _ = shelf.listing()
    assert [one.title for one in found] == ["chat 2[2J", "chat 1[2J", "chat 0[2J"]
    shelf.remove(ids[2])
    assert [one.id for one in shelf.listing()[0]] == [ids[1], ids[0]]
    with pytest.raises(NotFound):
        shelf.load(ids[2])
    with pytest.raises(NotFound):
        shelf.load("../../etc/passwd")


@pytest.mark.parametrize("cut", [0, 5, 60, 300])
def test_a_cut_file_is_set_aside_and_kept(tmp_path: Path, cut: int) -> None:
    shelf = Shelf(tmp_path)
    shelf.save(ID, talk())
    path = tmp_path / f"{ID}.json"
    content = path.read_bytes()[:cut]
    for name in (f"{path.name}.damaged", f"{path.name}.damaged-1"):
        path.write_bytes(content)
        found, aside = shelf.listing()
        if found:
            assert aside == []
            with pytest.raises(Local, match="cannot be read") as caught:
                shelf.load(ID)
            assert name in caught.value.action
        else:
            assert aside == [name]
        assert (tmp_path / name).read_bytes() == content
        assert shelf.listing() == ([], [])


def test_a_disk_that_takes_nothing_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(tmp_path)
    shelf.save(ID, talk("old"))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Local, match="No space left"):
        shelf.save(ID, talk("new", revision=2))
    assert shelf.load(ID).about.title == "old"
    assert os.listdir(tmp_path) == [f"{ID}.json"]


def test_two_writers_and_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(tmp_path)
    shelf.save(ID, talk("one", revision=1))
    shelf.save(ID, talk("two", revision=2))
    with pytest.raises(Conflict):
        shelf.save(ID, talk("other", revision=2))
    assert shelf.load(ID).about.title == "two"
    monkeypatch.setattr(talk_files, "MOST_CHATS", 1)
    with pytest.raises(PayloadTooLarge, match="chats are kept"):
        shelf.save(new_id(0.0), talk())
    shelf.save(ID, talk("three", revision=3))
    monkeypatch.setattr(talk_files, "MOST_BYTES", 100)
    with pytest.raises(PayloadTooLarge, match="MiB"):
        shelf.save(ID, talk("four", revision=4))


def test_a_kill_while_writing_leaves_a_whole_file(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_tui_talk_files import ID, Shelf, talk
shelf, revision = Shelf(Path({str(tmp_path)!r})), 0
while True:
    revision += 1
    shelf.save(ID, talk("x" * 90_000, revision=revision))
    if revision == 1:
        print("up", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        child.kill()
        child.wait(10)
    shelf = Shelf(tmp_path)
    found, aside = shelf.listing()
    assert ([one.id for one in found], aside) == ([ID], [])
    assert shelf.load(ID).turns[0].prompt == "x" * 90_000
