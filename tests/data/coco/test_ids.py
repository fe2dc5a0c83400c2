"""Whatever the ids of a data set are, what is true scores one, or is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz.cases import DOCUMENTS
from fuzz.truth import scores_of_truth

from unified.errors import DataError

SCORED = (
    "ids from 0", "ids all equal", "negative ids", "ids beyond 32 bits", "image ids from 0",
    "image ids beyond 32 bits", "category ids from 0", "category ids reversed", "no areas",
    "no crowds", "same names", "annotation twice",
)  # fmt: skip
REFUSED = {
    "ids beyond 53 bits": "id",
    "image ids negative": "images",
    "image ids equal": "stands twice",
    "image twice": "stands twice",
    "category twice": "stands twice",
    "crowd as text": "iscrowd",
    "absolute name": "file_name",
    "name leads out": "file_name",
    "huge image": "data.max_megapixels",
    "garbage run lengths": "counts",
    "other run lengths": "counts",
    "negative run lengths": "counts",
    "run lengths of another size": "9×9",
    "far polygon": "corner",
    "far box": "bbox",
    "huge area": "area",
}


@pytest.fixture
def changed(shapes: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A data set whose objects have been changed."""

    def construct(name: str) -> Path:
        root = tmp_path / "data"
        shutil.copytree(shapes, root)
        file = root / "annotations" / "instances_val.json"
        document: dict[str, Any] = json.loads(file.read_text())
        DOCUMENTS[name](document)
        file.write_text(json.dumps(document))
        return root

    return construct


@pytest.mark.parametrize("name", SCORED)
def test_truth_scores_one_whatever_the_ids(name: str, changed: Callable[[str], Path]) -> None:
    kinds = ("objects", "masks")
    assert scores_of_truth(changed(name), kinds=kinds) is None


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused(name: str, changed: Callable[[str], Path]) -> None:
    with pytest.raises(DataError) as caught:
        scores_of_truth(changed(name), kinds=("objects", "masks"))
    assert "instances_val.json" in str(caught.value)
    assert REFUSED[name] in str(caught.value)
