"""Semantic segmentation after COCO-Stuff: IoU and accuracy over all pixels of a split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unified.data.coco import CocoSplit
from unified.metrics.collect import Collector
from unified.ops.rle import encode
from unified.specs import IGNORE, Array, Batch, PixelClasses


class SemanticScores(Collector[tuple[Array, list[dict[str, Any]]]]):
    """mIoU, frequency-weighted IoU, mean and pixel accuracy (Caesar et al. 2018, section 4).

    Over the confusion of all labelled pixels at the original size; means are over the classes
    that occur in the ground truth.

    A record is (confusion (C, C) with the truth in rows, one RLE row per predicted class).
    """

    primary = "mIoU"

    def __init__(self, truth: CocoSplit, kind: str) -> None:
        super().__init__()
        truth.require(kind)
        self.truth, self.kind = truth, kind
        self.labels = truth.labels[kind]

    def update(self, predictions: Sequence[PixelClasses], batch: Batch) -> None:
        for meta, found in zip(batch.metas, predictions, strict=True):
            if meta.view > 0:
                continue
            truth = self.truth.class_map(self.kind, self.truth.position[meta.image_id])
            if truth is not None:
                classes = found.classes.cpu().numpy()
                rows = encode_classes(classes, meta.image_id, self.labels.ids)
                self.records[meta.image_id] = (confusion(truth, classes, len(self.labels)), rows)

    def compute(self) -> dict[str, float]:
        self.gather()
        total = np.zeros((len(self.labels), len(self.labels)), np.int64)
        for matrix, _ in self.records.values():
            total += matrix
        hits, truths, claims = np.diag(total), total.sum(1), total.sum(0)
        occurs = truths > 0
        if not occurs.any():
            return dict.fromkeys(("mIoU", "fwIoU", "mAcc", "pAcc"), 0.0)
        iou = hits[occurs] / (truths + claims - hits)[occurs]
        share = truths[occurs] / truths.sum()
        return {
            "mIoU": float(iou.mean()),
            "fwIoU": float((iou * share).sum()),
            "mAcc": float((hits[occurs] / truths[occurs]).mean()),
            "pAcc": float(hits.sum() / truths.sum()),
        }

    def write(self, folder: Path) -> None:
        """`<kind>.json`, COCO-Stuff's result format: one RLE per image and class."""
        rows = [row for _, rows in self.records.values() for row in rows]
        (folder / f"{self.kind}.json").write_text(json.dumps(rows))

    def curves(self) -> dict[str, tuple[Any, Any]]:
        return {}


def confusion(truth: Array, found: Array, classes: int) -> Array:
    """(C, C) pixel counts, truth in rows; pixels whose truth is `IGNORE` do not count."""
    known = truth != IGNORE
    joint = truth[known].astype(np.int64) * classes + found[known]
    return np.bincount(joint, minlength=classes**2).reshape(classes, classes)


def encode_classes(found: Array, image_id: int, categories: Sequence[int]) -> list[dict[str, Any]]:
    """COCO-Stuff result rows of one image: image_id, category_id, segmentation."""
    rows = []
    for index in np.unique(found):
        row = {"image_id": image_id, "category_id": int(categories[int(index)])}
        rows.append(row | {"segmentation": encode(found == index)})
    return rows
