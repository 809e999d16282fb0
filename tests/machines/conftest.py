"""A user with a queen and other machines, for every test here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.box import Boxes, boxes_of
from tests.support.home import Home
from tests.support.sshd import MISSING


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is made ready to be sent; once for all tests."""
    return tmp_path_factory.mktemp("wheelhouse")


@pytest.fixture
def boxes(home: Home, tmp_path: Path, wheelhouse: Path) -> Iterator[Boxes]:
    """No machine yet; the queen runs."""
    if MISSING:
        pytest.skip(MISSING)
    (home.path / "cache").mkdir()
    (home.path / "cache" / "wheelhouse").symlink_to(wheelhouse)
    with boxes_of(home, tmp_path) as boxes:
        boxes.rbee("queen", "start")
        yield boxes
