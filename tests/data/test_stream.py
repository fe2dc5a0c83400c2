"""Reading json piece by piece gives what reading it whole gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unified.data import stream
from unified.errors import DataError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(st.text(min_size=1), st.lists(VALUES, max_size=5) | VALUES, max_size=5)


@settings(max_examples=150, deadline=None)
@given(document=DOCUMENTS, chunk=st.integers(1, 40), indent=st.sampled_from([None, 1, 4]))
def test_pieces_put_together_are_the_whole(tmp_path_factory, document, chunk, indent) -> None:
    file = tmp_path_factory.getbasetemp() / "document.json"
    file.write_text(json.dumps(document, indent=indent))
    original, stream.CHUNK = stream.CHUNK, chunk
    try:
        pieces = list(stream.stream_object(file))
    finally:
        stream.CHUNK = original
    rebuilt: dict = {k: [] for k, v in document.items() if isinstance(v, list)}
    for key, value in pieces:
        if isinstance(document[key], list):
            rebuilt[key].append(value)
        else:
            rebuilt[key] = value
    assert rebuilt == document


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "is not COCO"),
        ("", "is not COCO"),
        ('{"images": [{"id": 1}', "not valid json"),
        ('{"images": [1 2]}', "not valid json"),
        ('{"images" 3}', "not valid json"),
        ('{"a": 1 "b": 2}', "not valid json"),
    ],
)
def test_broken_json_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "broken.json"
    file.write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        list(stream.stream_object(file))
    assert "broken.json" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.json"):
        list(stream.stream_object(tmp_path / "absent.json"))
