"""Multi-label classification: mAP, CF1 and OF1."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torchmetrics.functional.classification import multilabel_average_precision

from unified.arrays import Array
from unified.kinds.objects import ObjectSource
from unified.kinds.tags import Tags
from unified.metrics.collect import Collector, Lookup
from unified.view import ImageMeta

THRESHOLD = 0.5


class MultilabelScores(Collector[tuple[Array, Array]]):
    """Scores of an image against the categories of its objects, crowds included.

    mAP is the mean over the categories that occur in the split. CF1 is the harmonic mean of the
    mean per-category precision and recall, OF1 the same over all decisions together, both at
    probability 0.5 (Wang et al. 2016, "CNN-RNN", the usual protocol).

    A record is (scores (C,), present (C,)).
    """

    primary = "mAP"

    def __init__(self, source: ObjectSource) -> None:
        super().__init__()
        self.source, self.known = source, Lookup(source)

    def update(self, results: Sequence[Tags], metas: Sequence[ImageMeta]) -> None:
        for meta, tags in zip(metas, results, strict=True):
            place = self.known[meta.image_id]
            if place is not None:
                present = np.zeros(len(self.source.space), bool)
                present[self.source.read(place).labels] = True
                self.records[meta.image_id] = (tags.scores.cpu().numpy(), present)

    def compute(self) -> dict[str, float]:
        records = self.sorted_records()
        if not any(present.any() for _, present in records.values()):
            # Nothing was said, or there is nothing to say.
            return dict.fromkeys(("mAP", "CF1", "OF1"), math.nan if records else 0.0)
        scores = np.stack([r[0] for r in records.values()])
        present = np.stack([r[1] for r in records.values()])
        occurs = present.any(0)
        columns = np.flatnonzero(occurs)
        # One category alone is scored beside itself: the metric wants several.
        columns = np.resize(columns, max(2, len(columns)))
        average = multilabel_average_precision(
            torch.from_numpy(scores[:, columns]),
            torch.from_numpy(present[:, columns].astype(np.int64)),
            num_labels=len(columns),
            average="none",
        )
        said = scores > THRESHOLD
        hits, claims, truths = (said & present).sum(0), said.sum(0), present.sum(0)
        per_class = _f1(
            (hits / np.maximum(claims, 1))[occurs].mean(),
            (hits / np.maximum(truths, 1))[occurs].mean(),
        )
        overall = _f1(hits.sum() / max(claims.sum(), 1), hits.sum() / max(truths.sum(), 1))
        return {"mAP": float(average.mean()), "CF1": per_class, "OF1": overall}

    def write(self, folder: Path) -> None:
        """`classification.json`: one row per image and category with its probability."""
        rows = [
            {"image_id": int(key), "category_id": category, "score": round(float(score), 6)}
            for key, (scores, _) in self.sorted_records().items()
            for category, score in zip(self.source.space.ids, scores, strict=True)
        ]
        (folder / "classification.json").write_text(json.dumps(rows))


def _f1(precision: float, recall: float) -> float:
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0
