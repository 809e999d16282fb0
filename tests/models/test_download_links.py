"""Files of other programs that a transfer takes by a hard link: never written to, never cut."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rbee.models.download import fetch
from rbee.models.transfer_pace import Limits
from tests.models.orders import noise, order_for, ranges
from tests.support.hub_fixture import StandIn

pytestmark = pytest.mark.anyio
QUICK = Limits(first_pause=0.001, margin=0)
DATA = noise(700_000)
NAME = "m.Q4_K_M.gguf"


@pytest.mark.parametrize("left", [0, 300_000])
async def test_a_link_that_its_owner_cuts_short_is_not_written_to(
    hub: StandIn, tmp_path: Path, left: int
) -> None:
    """As after kill -9 while it was hashed: the link lies among the partial files."""
    order = order_for(hub, {NAME: DATA})
    theirs, part = tmp_path / "theirs.gguf", tmp_path / "p/part" / NAME
    theirs.write_bytes(DATA)
    part.parent.mkdir(parents=True)
    os.link(theirs, part)
    os.truncate(theirs, left)
    await fetch(order, tmp_path / "p", report=lambda _: None, limits=QUICK)
    assert theirs.read_bytes() == DATA[:left]
    assert (tmp_path / "p/files" / NAME).read_bytes() == DATA
    assert ranges(hub) == [None]
