"""Multi-label metrics on a case that fits on paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unified.arrays import Ragged
from unified.kinds.kind import Images
from unified.kinds.objects import ObjectLabel, ObjectSpace
from unified.kinds.tags import Tags
from unified.metrics.multilabel import MultilabelScores
from unified.view import ImageMeta

EYE = np.array([[1.0, 0, 0], [0, 1.0, 0]])


class Annotated:
    """Objects of these categories in images 0, 1, …"""

    kind = "objects"
    space = ObjectSpace((5, 6, 8), ("a", "b", "never"))

    def __init__(self, present: list[list[int]]) -> None:
        count = np.arange(len(present))
        self.present = present
        self.images = Images(count, count + 1, count + 1, Ragged.of_texts(map(str, count)))
        self.known = np.ones(len(present), bool)

    def read(self, index: int) -> ObjectLabel:
        labels = np.array(self.present[index], int)
        zeros = np.zeros(len(labels), int)
        return ObjectLabel(np.zeros((len(labels), 4)), labels, zeros > 0, zeros, zeros)


def score(rows: list[list[float]], present: list[list[int]]) -> dict[str, float]:
    metric = MultilabelScores(Annotated(present))
    metas = [ImageMeta(i, "", 1, 1, EYE) for i in range(len(rows))]
    metric.update([Tags(torch.tensor(row)) for row in rows], metas)
    return metric.compute()


def test_perfect_scores() -> None:
    found = score([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]], [[0], [1]])
    assert found == {"mAP": 1.0, "CF1": 1.0, "OF1": 1.0}


def test_by_hand() -> None:
    """a: ranks +, -, + → AP (1 + 2/3) / 2; b: ranks -, + → AP 1/2; c never occurs."""
    rows = [[0.9, 0.7, 0.9], [0.6, 0.1, 0.0], [0.4, 0.6, 0.0]]
    found = score(rows, [[0], [], [0, 1]])
    assert found["mAP"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2, abs=1e-6)
    # a: precision 1/2, recall 1/2; b: precision 1/2, recall 1.
    assert found["CF1"] == pytest.approx(2 * 0.5 * 0.75 / 1.25)
    # Claims 5 (one of them for c), hits 2, truths 3.
    assert found["OF1"] == pytest.approx(2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3))
