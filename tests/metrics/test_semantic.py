"""Semantic scores on cases that fit on paper, and on the truth itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from unified.data.coco import CocoSplit
from unified.data.dataset import CocoDataset, collate
from unified.metrics.semantic import SemanticScores, confusion
from unified.specs import IGNORE, PixelClasses


def score(split: CocoSplit, kind: str, change) -> tuple[dict[str, float], SemanticScores]:
    """Feed changed ground truth through the metric."""
    metric = SemanticScores(split, kind)
    dataset = CocoDataset(split, 64, None)
    for index in range(len(split)):
        found = change(split.class_map(kind, index))
        found = np.where(found == IGNORE, 0, found)  # the truth does not know; anything goes
        metric.update([PixelClasses(torch.from_numpy(found), kind)], collate([dataset[(0, index)]]))
    return metric.compute(), metric


def test_the_truth_scores_one(shapes: Path, coco_panoptic: Path, tmp_path: Path) -> None:
    for split, kind in (
        (CocoSplit(shapes, "val"), "stuff"),
        (CocoSplit(coco_panoptic, "val2017"), "panoptic"),
    ):
        found, metric = score(split, kind, lambda classes: classes)
        assert found == dict.fromkeys(("mIoU", "fwIoU", "mAcc", "pAcc"), 1.0)
        metric.write(tmp_path)
        rows = json.loads((tmp_path / f"{kind}.json").read_text())
        first = split.class_map(kind, 0)
        for row in rows:
            if row["image_id"] == split.ids[0]:
                index = split.labels[kind].ids.index(row["category_id"])
                mask = coco_mask.decode(row["segmentation"]).astype(bool)
                assert (mask[first != IGNORE] == (first == index)[first != IGNORE]).all()


def test_two_classes_swapped_give_the_value_computed_by_hand(shapes: Path) -> None:
    split = CocoSplit(shapes, "val")
    count = len(split.labels["stuff"])
    swap = np.arange(256, dtype=np.uint8)
    swap[[0, 1]] = [1, 0]
    found, _ = score(split, "stuff", lambda classes: swap[classes])
    pixels = sum(
        np.bincount(split.class_map("stuff", i).ravel(), minlength=256) for i in range(len(split))
    )[:count]
    assert (pixels > 0).all(), "every class occurs"
    assert found["mIoU"] == pytest.approx((count - 2) / count)
    assert found["mAcc"] == pytest.approx((count - 2) / count)
    kept = pixels[2:].sum() / pixels.sum()
    assert found["fwIoU"] == pytest.approx(kept)
    assert found["pAcc"] == pytest.approx(kept)


def test_unlabelled_pixels_do_not_count() -> None:
    truth = np.array([[0, 1, IGNORE], [1, 1, IGNORE]], np.uint8)
    found = np.array([[0, 0, 1], [1, 1, 0]], np.uint8)
    assert confusion(truth, found, 2).tolist() == [[1, 0], [1, 2]]
