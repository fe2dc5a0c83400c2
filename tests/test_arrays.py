"""Ragged rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unified import arrays
from unified.arrays import Ragged


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(), max_size=9), st.integers(0, 1000), st.integers(1, 4))
def test_taken_rows_are_the_rows(texts: list[str], seed: int, chunk: int) -> None:
    rows = Ragged.of_texts(texts)
    assert [rows.text(i) for i in range(len(rows))] == texts
    order = np.random.default_rng(seed).permutation(len(texts))[: len(texts) // 2 + 1]
    original, arrays.CHUNK = arrays.CHUNK, chunk
    try:
        taken = rows.take(order)
    finally:
        arrays.CHUNK = original
    assert [taken.text(i) for i in range(len(taken))] == [texts[i] for i in order]
