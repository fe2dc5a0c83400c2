"""Edits of annotation files that hypothesis draws, the same in every run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

FILES = ("instances", "panoptic", "stuff", "person_keypoints", "lvis", "captions")
NUMBERS = st.integers(-(2**70), 2**70) | st.floats() | st.integers(-2, 300)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "size", "counts", "bbox", "name"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
Edit = Callable[[bytes], bytes]


@st.composite
def edits(draw: Any) -> tuple[str, Edit]:
    """A file, and what is done to its bytes."""
    file = f"annotations/{draw(st.sampled_from(FILES))}_val.json"
    if draw(st.integers(0, 3)) == 0:
        place, piece = draw(st.floats(0, 1)), draw(st.binary(max_size=8))
        cut = draw(st.integers(0, 40))
        return file, lambda data: _spliced(data, place, piece, cut)
    steps, value = draw(st.lists(st.floats(0, 0.999), min_size=2, max_size=7)), draw(VALUES)
    return file, lambda data: _replaced(data, steps, value)


def _spliced(data: bytes, place: float, piece: bytes, cut: int) -> bytes:
    begin = int(place * len(data))
    return data[:begin] + piece + data[begin + cut :]


def _replaced(data: bytes, steps: list[float], value: Any) -> bytes:
    """Go down as the steps say, and put the value there."""
    document = json.loads(data)
    holder, key, inner = None, None, document
    for step in steps:
        if not isinstance(inner, (dict, list)) or not inner:
            break
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        holder, key = inner, keys[int(step * len(keys))]
        inner = holder[key]
    assert holder is not None
    holder[key] = value
    return json.dumps(document).encode()


def drawn_edits(count: int) -> list[tuple[str, Edit]]:
    """The first so many."""
    found: list[tuple[str, Edit]] = []

    @settings(
        max_examples=count, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(edits())
    def collect(edit: tuple[str, Edit]) -> None:
        found.append(edit)

    collect()
    return found
