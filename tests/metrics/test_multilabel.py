"""Multi-label metrics on a case that fits on paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unified.metrics.multilabel import MultilabelScores
from unified.specs import Batch, ImageMeta, LabelSpace, Tags, Targets

LABELS = LabelSpace((5, 6, 8), ("a", "b", "never"), (True,) * 3)
EYE = np.array([[1.0, 0, 0], [0, 1.0, 0]])


def score(rows: list[list[float]], present: list[list[int]]) -> dict[str, float]:
    pairs = [(i, c) for i, row in enumerate(present) for c in row]
    image = torch.tensor([p[0] for p in pairs])
    labels = torch.tensor([p[1] for p in pairs])
    batch = Batch(
        images=torch.zeros(len(rows), 3, 1, 1),
        metas=[ImageMeta(i, "", 1, 1, EYE) for i in range(len(rows))],
        targets=Targets(image, torch.zeros(len(pairs), 4), labels, labels > 9, labels),
        labelled=torch.ones(len(rows), dtype=torch.bool),
    )
    metric = MultilabelScores(LABELS)
    metric.update([Tags(torch.tensor(row)) for row in rows], batch)
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
