"""Several rows drawn at once must give what each gives by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee import registry

pytestmark = pytest.mark.skipif(
    not registry.load("llamacpp").probe().available, reason="llama-cpp-python is not installed"
)
DRAWS = st.tuples(
    st.sampled_from([1, 2, 5, 40, 256]),
    st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0]),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    st.sampled_from([1e-12, 0.2, 0.8, 1.0, 5.0]),
)
SHAPES = st.sampled_from(["gauss", "peaked", "steps", "flat", "banned", "few", "nan", "inf"])
SIZE = 9000


def row_of(shape: str, chance: np.random.Generator, size: int) -> np.ndarray:
    row = chance.normal(0, 3, size).astype(np.float32)
    if shape == "peaked":
        row[chance.integers(size)] += 40
    elif shape == "steps":
        row = np.round(row)
    elif shape == "flat":
        row[:] = 1
    elif shape == "banned":
        row[:] = -math.inf
    elif shape == "few":
        row[7:] = -math.inf
    elif shape == "nan":
        row[5] = math.nan
    elif shape == "inf":
        row[5] = math.inf
    return row


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(SHAPES, DRAWS, st.floats(0, 1, exclude_max=True)), min_size=1, max_size=8),
    st.integers(0, 2**32),
    st.sampled_from([SIZE, 8192, 12288]),
)
def test_rows_drawn_together_are_drawn_as_each_by_itself(rows, seed, size):
    from rbee.backends.llamacpp.candidates import Filters, draw, survivors
    from rbee.backends.llamacpp.drawing import Draw, draw_all
    from rbee.backends.llamacpp.sampling import _Point

    from rbee.errors import InternalError

    chance = np.random.default_rng(seed)
    table = np.stack([row_of(shape, chance, size) for shape, _, _ in rows])
    draws = [Draw(*how) for _, how, _ in rows]
    points = [point for _, _, point in rows]
    together = draw_all(table, draws, points)
    for number, token in enumerate(together):
        alone = draw_all(table[number : number + 1], [draws[number]], [points[number]])
        assert alone == [token]
        if token < 0:
            continue
        how = draws[number]
        ids, below = survivors(table[number], Filters(how.top_k, how.top_p, how.min_p))
        expected = int(ids[draw(below, how.temperature, _Point(points[number]))])
        if len(ids) > 1:
            assert token == expected
        else:
            assert token == int(ids[0])
    for (shape, _, _), token in zip(rows, together, strict=True):
        if shape in ("nan", "inf", "banned", "flat"):
            assert token == -1
            if shape in ("nan", "inf"):
                with pytest.raises(InternalError):
                    survivors(row_of(shape, chance, size), Filters(40, 0.95, 0.05))
        elif shape in ("gauss", "peaked"):
            assert token >= 0


def test_every_candidate_is_drawn_as_often_as_it_is_likely():
    from rbee.backends.llamacpp.drawing import Draw, draw_all

    row = np.random.default_rng(2).normal(-50, 1, (1, 8192)).astype(np.float32)
    row[0, [100, 5000, 8000]] = np.log([0.5, 0.3, 0.2])
    chance = np.random.default_rng(1)
    draws = [Draw(40, 1.0, 0.0, 1.0)] * 8
    found = []
    for _ in range(500):
        found += draw_all(np.repeat(row, 8, axis=0), draws, chance.random(8).tolist())
    counts = [found.count(token) / len(found) for token in (100, 5000, 8000)]
    assert counts == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
