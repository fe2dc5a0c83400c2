"""Retrieval on a case that fits on paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unified.metrics.retrieval import Retrieval
from unified.specs import Batch, ImageMeta, Targets, Vectors

EYE = np.array([[1.0, 0, 0], [0, 1.0, 0]])


def score(vectors: list[list[float]], identities: list[int]) -> dict[str, float]:
    empty = torch.zeros(0, dtype=torch.long)
    metric = Retrieval()
    for image, (vector, identity) in enumerate(zip(vectors, identities, strict=True)):
        batch = Batch(
            images=torch.zeros(1, 3, 1, 1),
            metas=[ImageMeta(image, "", 1, 1, EYE)],
            targets=Targets(empty, torch.zeros(0, 4), empty, empty.bool(), empty),
            labelled=torch.ones(1, dtype=torch.bool),
        )
        unit = torch.nn.functional.normalize(torch.tensor([vector], dtype=torch.float32), dim=1)
        metric.update([Vectors(torch.zeros(0, 2), unit, torch.tensor([identity]))], batch)
    return metric.compute()


def test_neighbours_of_the_same_individual_score_one() -> None:
    assert score([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], [1, 1, 2, 2]) == {
        "Recall@1": 1.0,
        "mAP@R": 1.0,
    }


def test_half_of_the_queries_fail() -> None:
    """Two find each other; the other two are nearer to a stranger than to each other."""
    found = score([[1.0, 0], [1.0, 0.05], [1.0, 1.0], [-1.0, 0.9], [-1.0, 1.0]], [1, 1, 2, 2, 3])
    assert found["Recall@1"] == pytest.approx(0.5)


def test_no_partner_no_score() -> None:
    assert score([[1, 0], [0, 1]], [1, 2]) == {"Recall@1": 0.0, "mAP@R": 0.0}
