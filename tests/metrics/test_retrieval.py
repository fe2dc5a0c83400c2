"""Retrieval on a case that fits on paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unified.kinds.vectors import Vectors
from unified.metrics.retrieval import Retrieval
from unified.view import ImageMeta

EYE = np.array([[1.0, 0, 0], [0, 1.0, 0]])


def score(vectors: list[list[float]], identities: list[int]) -> dict[str, float]:
    metric = Retrieval()
    for image, (vector, identity) in enumerate(zip(vectors, identities, strict=True)):
        meta = ImageMeta(image, "", 1, 1, EYE)
        unit = torch.nn.functional.normalize(torch.tensor([vector], dtype=torch.float32), dim=1)
        found = Vectors(torch.zeros(0, 2), torch.zeros(0), unit, torch.tensor([identity]))
        metric.update([found], [meta])
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
