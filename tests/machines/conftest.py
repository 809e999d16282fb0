"""A user with a queen and other machines, for every test here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.box import Boxes, boxes_of
from tests.support.home import Home
from tests.support.sshd import MISSING


@pytest.fixture
def boxes(home: Home, tmp_path: Path) -> Iterator[Boxes]:
    """No machine yet; the queen runs."""
    if MISSING:
        pytest.skip(MISSING)
    with boxes_of(home, tmp_path) as boxes:
        boxes.rbee("queen", "start")
        yield boxes
