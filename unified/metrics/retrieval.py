"""Retrieval over embedded objects, by pytorch-metric-learning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

from unified.arrays import Array
from unified.kinds.vectors import Vectors
from unified.metrics.collect import Collector
from unified.view import ImageMeta


class Retrieval(Collector[tuple[Array, Array]]):
    """Recall@1 and mAP@R over the annotated objects of a split (Musgrave et al. 2020).

    Each object is a query among all others; an individual that appears once is no query. All
    views count, since without identities an object's only partner is its other view.

    A record is (vectors (M, D), identities (M,)), by image and view.
    """

    primary = "Recall@1"

    def __init__(self) -> None:
        super().__init__()
        self.calculator = AccuracyCalculator(
            include=("precision_at_1", "mean_average_precision_at_r"),
            knn_func=CustomKNN(CosineSimilarity(), batch_size=4096),
            device=torch.device("cpu"),
        )

    def update(self, results: Sequence[Vectors], metas: Sequence[ImageMeta]) -> None:
        for meta, vectors in zip(metas, results, strict=True):
            self.records[(meta.image_id, meta.view)] = (
                vectors.truth_vectors.cpu().numpy(),
                vectors.truth_identities.cpu().numpy(),
            )

    def compute(self) -> dict[str, float]:
        vectors, identities = self._stack()
        _, counts = np.unique(identities, return_counts=True)
        if not (counts > 1).any():
            return {"Recall@1": 0.0, "mAP@R": 0.0}
        found = self.calculator.get_accuracy(
            torch.from_numpy(vectors), torch.from_numpy(identities)
        )
        return {
            "Recall@1": float(found["precision_at_1"]),
            "mAP@R": float(found["mean_average_precision_at_r"]),
        }

    def _stack(self) -> tuple[Array, Array]:
        records = list(self.sorted_records().values())
        if not records:
            return np.zeros((0, 1), np.float32), np.zeros(0, np.int64)
        return np.concatenate([r[0] for r in records]), np.concatenate([r[1] for r in records])

    def write(self, folder: Path) -> None:
        """`embedding.npz`: vectors, identities and image ids of the annotated objects."""
        vectors, identities = self._stack()
        records = self.sorted_records()
        images = [key[0] for key, record in records.items() for _ in record[1]]
        np.savez_compressed(
            folder / "embedding.npz", vectors=vectors, identities=identities, images=images
        )
