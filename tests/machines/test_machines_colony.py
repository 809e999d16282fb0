"""One colony of the queen's own hive and two machines over SSH: one list, one scheduler."""

from __future__ import annotations

import pytest

from tests.support.box import Boxes
from tests.support.home import wait_for
from tests.support.tiny_gguf import write_llama
from tests.support.told import Reader

LONG = "@delay=100 @repeat=110 tick"
WHOLE = ["tick"] * 110
ALL = {"home", "attic", "cellar"}


@pytest.fixture
def two(boxes: Boxes) -> Boxes:
    """attic and cellar are online."""
    for name, labels in (("attic", ("region=eu", "watts=350")), ("cellar", ("tier=slow",))):
        boxes.add(name).has_rbee()
        boxes.join(name, *(word for label in labels for word in ("--label", label)))
        boxes.until(name, "online")
    return boxes


def hive_of(boxes: Boxes, reader: Reader) -> str:
    """Where its job runs or ran."""
    return boxes.home.get(f"/v1/jobs/{reader.job_id}")["hive"]


@pytest.mark.lab
def test_all_machines_work_and_one_that_is_cut_has_its_jobs_go_on_elsewhere(two: Boxes) -> None:
    # as many as one worker of each takes at once
    readers = [two.ask(LONG, name) for name in sorted(ALL) for _ in range(2)]
    for reader in readers:
        wait_for(lambda r=reader: "tick" in r.told.text, limit=40, what="its first word")
    assert {hive_of(two, reader) for reader in readers} == ALL
    free = [two.ask(LONG) for _ in range(9)]
    for reader in free:
        wait_for(lambda r=reader: "tick" in r.told.text, limit=60, what="its first word")
    used = {hive_of(two, reader) for reader in free}
    assert used == ALL, used
    moved = [reader for reader in free if hive_of(two, reader) == "attic"]

    two["attic"].sshd.stop()
    assert all("end" not in reader.told.kinds for reader in moved)
    for reader in free:
        assert reader.whole().text.split() == WHOLE
    assert {hive_of(two, reader) for reader in moved} <= {"home", "cellar"}
    two["attic"].sshd.start()
    for reader in readers:  # those that only attic may run have waited for it
        assert reader.whole().text.split() == WHOLE
    assert {hive_of(two, reader) for reader in readers} == ALL


@pytest.mark.lab
def test_models_and_labels_of_all_machines_are_shown_and_models_go_from_one_to_the_other(
    two: Boxes,
) -> None:
    for name, labels in (("attic", {"region": "eu", "watts": "350"}), ("cellar", {"tier": "slow"})):
        assert two.info(name)["labels"] == labels
        shown = two.rbee("hive", "show", name)
        for label, text in labels.items():
            assert f"{label}={text}" in shown
    told = {hive["name"]: hive for hive in two.home.get("/v1/hives")["hives"]}
    assert set(told) == ALL
    assert told["attic"]["labels"]["watts"] == "350"
    two.rbee("hive", "set", "attic", "--label", "watts=", "--label", "tier=fast")
    assert two.info("attic")["labels"] == {"region": "eu", "tier": "fast"}

    file = write_llama(two["attic"].home / "tiny.gguf")
    two.rbee("model", "import", str(file), "--hive", "attic", "--name", "tiny")
    two.rbee("model", "copy", "tiny", "--from", "attic", "--to", "cellar")
    two.rbee("model", "verify", "tiny", "--hive", "cellar")
    (line,) = [row for row in two.rbee("model", "list").splitlines() if "tiny" in row]
    assert "attic" in line
    assert "cellar" in line
