"""Semantic scores on cases that fit on paper, and on the truth itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from unified.arrays import IGNORE
from unified.data.coco import png
from unified.data.split import Split
from unified.kinds.pixels import PixelClasses
from unified.metrics.semantic import SemanticScores, confusion
from unified.view import ImageMeta

IDENTITY = np.array([[1.0, 0, 0], [0, 1.0, 0]])


def score(split: Split, change: Callable) -> tuple[dict[str, float], SemanticScores]:
    """Feed changed ground truth through the metric."""
    metric = SemanticScores(split.sources["pixels"], "stuff.json")
    for index in range(len(split)):
        found = change(split.result("pixels", index).classes.numpy())
        found = np.where(found == IGNORE, 0, found)  # the truth does not know; anything goes
        meta = ImageMeta(int(split.images.ids[index]), "", *found.shape, IDENTITY)
        metric.update([PixelClasses(torch.from_numpy(found))], [meta])
    return metric.compute(), metric


def test_the_truth_scores_one(
    shapes: Path, coco_panoptic: Path, open_split: Callable, tmp_path: Path
) -> None:
    for split in (
        open_split(shapes, "val", "pixels"),
        open_split(coco_panoptic, "val2017", "pixels", derive=True),
    ):
        found, metric = score(split, lambda classes: classes)
        assert found == dict.fromkeys(("mIoU", "fwIoU", "mAcc", "pAcc"), 1.0)
        metric.write(tmp_path)
        rows = json.loads((tmp_path / "stuff.json").read_text())
        first = split.result("pixels", 0).classes.numpy()
        own = [row for row in rows if row["image_id"] == split.images.ids[0]]
        assert own
        for row in own:
            index = split.sources["pixels"].space.ids.index(row["category_id"])
            mask = coco_mask.decode(row["segmentation"]).astype(bool)
            assert (mask[first != IGNORE] == (first == index)[first != IGNORE]).all()


def test_label_files_are_read_beside_the_loop(
    shapes: Path, open_split: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never in the thread that runs the network."""
    readers = []
    real = png.read_grey

    def watched(*arguments: object) -> np.ndarray:
        readers.append(threading.current_thread())
        return real(*arguments)

    split = open_split(shapes, "val", "pixels")
    truths = [split.result("pixels", i).classes for i in range(len(split))]
    monkeypatch.setattr("unified.data.coco.pixels.read_grey", watched)
    metric = SemanticScores(split.sources["pixels"], "stuff.json")
    for index, classes in enumerate(truths):
        meta = ImageMeta(int(split.images.ids[index]), "", 64, 64, IDENTITY)
        metric.update([PixelClasses(classes)], [meta])
    metric.gather()
    assert len(readers) == len(split)
    assert threading.main_thread() not in readers


def test_two_classes_swapped_give_the_value_computed_by_hand(
    shapes: Path, open_split: Callable
) -> None:
    split = open_split(shapes, "val", "pixels")
    count = len(split.sources["pixels"].space)
    swap = np.arange(256, dtype=np.uint8)
    swap[[0, 1]] = [1, 0]
    found, _ = score(split, lambda classes: swap[classes])
    pixels = sum(
        np.bincount(split.result("pixels", i).classes.numpy().ravel(), minlength=256)
        for i in range(len(split))
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
