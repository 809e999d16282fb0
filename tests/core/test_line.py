"""A line: in order whatever joins and leaves, and every count of it exact."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.core.line import BLOCK, Arrival, Line


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 100)), max_size=200),
    st.sampled_from([1, 3, BLOCK]),
)
@settings(max_examples=150, deadline=None)
def test_a_line_is_a_sorted_list(steps: list[tuple[bool, int]], block: int) -> None:
    line, plain = Line[Arrival](), list[Arrival]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rbee.core.line.BLOCK", block)
        for number, (out, when) in enumerate(steps):
            if out and plain:
                gone = plain.pop(when % len(plain))
                assert line.remove(gone) == gone
                assert gone not in line
            else:
                key = (float(when), number)
                line.add(key, key)
                plain = sorted([*plain, key])
            assert list(line) == plain
            assert [line.before(key) for key in plain] == list(range(len(plain)))
            assert [line.at(n) for n in range(len(plain))] == plain
            assert line.before((50.0, -1)) == sum(key < (50.0, -1) for key in plain)
            if plain:
                assert line.first() == plain[0]


def test_a_line_refuses_what_cannot_be() -> None:
    line = Line[str]()
    line.add((1.0, 1), "a")
    with pytest.raises(ValueError, match="already"):
        line.add((1.0, 1), "b")
    with pytest.raises(KeyError):
        line.remove((2.0, 1))
    with pytest.raises(IndexError):
        line.at(1)
    line.remove((1.0, 1))
    with pytest.raises(IndexError):
        line.first()
