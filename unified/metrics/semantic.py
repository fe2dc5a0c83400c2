"""Semantic segmentation after COCO-Stuff: IoU and accuracy over all pixels of a split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from unified.arrays import IGNORE, Array
from unified.kinds.kind import Source
from unified.kinds.pixels import PixelClasses, class_masks
from unified.metrics.collect import Collector, Lookup
from unified.view import ImageMeta

Record = tuple[Array, list[dict[str, Any]]]


class SemanticScores(Collector[Record]):
    """mIoU, frequency-weighted IoU, mean and pixel accuracy (Caesar et al. 2018, section 4).

    Over the confusion of all labelled pixels at the original size; means are over the classes
    that occur in the ground truth. Label files are read in a thread of their own: the validation
    loop does not wait for them.

    A record is (confusion (C, C) with the truth in rows, one RLE row per predicted class).

    Args:
        source: the annotated pixels.
        file: name of the result file.
    """

    primary = "mIoU"

    def __init__(self, source: Source, file: str) -> None:
        super().__init__()
        self.source, self.file = source, file
        self.known = Lookup(source)
        self.reader = ThreadPoolExecutor(1)
        self.pending: dict[int, Future[Record]] = {}

    def update(self, results: Sequence[PixelClasses], metas: Sequence[ImageMeta]) -> None:
        for meta, found in zip(metas, results, strict=True):
            place = self.known[meta.image_id]
            if place is not None:
                classes = found.classes.cpu().numpy()
                self.pending[meta.image_id] = self.reader.submit(
                    self._record, place, classes, meta.image_id
                )

    def _record(self, place: int, classes: Array, image_id: int) -> Record:
        ids = self.source.space.ids
        truth = self.source.result(place).classes.numpy()  # type: ignore[attr-defined]
        rows = [
            {"image_id": image_id, "category_id": int(ids[index]), "segmentation": rle}
            for index, rle in class_masks(classes)
        ]
        return confusion(truth, classes, len(ids)), rows

    def reset(self) -> None:
        super().reset()
        self.pending = {}

    def gather(self) -> None:
        self._wait()
        super().gather()

    def _wait(self) -> None:
        self.records |= {key: future.result() for key, future in self.pending.items()}
        self.pending = {}

    def compute(self) -> dict[str, float]:
        self._wait()
        classes = len(self.source.space)
        total = np.zeros((classes, classes), np.int64)
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
        """COCO-Stuff's result format: one RLE per image and class."""
        rows = [row for _, rows in self.sorted_records().values() for row in rows]
        (folder / self.file).write_text(json.dumps(rows))


def confusion(truth: Array, found: Array, classes: int) -> Array:
    """(C, C) pixel counts, truth in rows; pixels whose truth is `IGNORE` do not count."""
    known = truth != IGNORE
    joint = truth[known].astype(np.int64) * classes + found[known]
    return np.bincount(joint, minlength=classes**2).reshape(classes, classes)
