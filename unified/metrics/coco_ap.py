"""COCO average precision by faster-coco-eval, or by pycocotools for reference."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unified.arrays import Array
from unified.errors import ConfigError
from unified.kinds.kind import Source
from unified.metrics.collect import Collector, Lookup
from unified.view import ImageMeta

AREAS = {"s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}
"""Last letter of a number's name → areas in square pixels that it is of."""
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class CocoAP(Collector[Any]):
    """Box AP as COCO defines it.

    Args:
        source: the annotated objects; its truth is COCO's json.
        evaluator: `faster` or `pycocotools`.

    Results are `Detections`; a record is (N, 6): x, y, width, height, score, category id.
    """

    primary = "AP"
    names: tuple[str, ...] = NAMES
    iou_type = "bbox"
    file = "bbox.json"

    def __init__(self, source: Source, evaluator: str = "faster") -> None:
        super().__init__()
        if evaluator not in EVALUATORS:
            raise ConfigError(f"evaluator={evaluator} is unknown", "use faster or pycocotools")
        self.source, self.evaluator = source, evaluator
        self.known = Lookup(source)
        self.ids = np.array(source.space.ids)
        self.evaluation: Any = None

    def update(self, results: Sequence[Any], metas: Sequence[ImageMeta]) -> None:
        for meta, found in zip(metas, results, strict=True):
            if self.known[meta.image_id] is not None:
                self.records[meta.image_id] = self._record(found, meta.image_id)

    def _record(self, found: Any, image_id: int) -> Any:
        boxes = found.boxes.double().cpu().numpy()
        return np.column_stack(
            [
                boxes[:, :2],
                boxes[:, 2:] - boxes[:, :2],
                found.scores.double().cpu().numpy(),
                self.ids[found.labels.cpu().numpy()],
            ]
        )

    def compute(self) -> dict[str, float]:
        results = self._results()
        if not len(results):
            return {name: 0.0 if self._has_truth(name) else math.nan for name in self.names}
        with contextlib.redirect_stdout(io.StringIO()):
            truth, evaluate = self.truth
            evaluation = self._evaluation(evaluate, truth, truth.loadRes(results))
            evaluation.params.imgIds = sorted(self.records)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        self.evaluation = evaluation
        # Evaluators say -1 where there is no object that could be found.
        stats = (float(v) if v >= 0 else math.nan for v in self._stats())
        return dict(zip(self.names, stats, strict=False))

    def _evaluation(self, evaluate: Any, truth: Any, found: Any) -> Any:
        """The evaluator, before it has evaluated anything."""
        return evaluate(truth, found, self.iou_type)

    def _stats(self) -> Sequence[float]:
        """What the evaluator found, in the order of the names."""
        return list(self.evaluation.stats)

    @cached_property
    def truth(self) -> tuple[Any, Any]:
        """The truth, indexed once for all validations, and its evaluation class."""
        return EVALUATORS[self.evaluator](self.source.truth())

    def _has_truth(self, name: str) -> bool:
        """Whether there is an object that a number is about, by the last letter of its name."""
        low, high = AREAS.get(name[-1], (0.0, math.inf))
        rows = self.source.truth()["annotations"]
        return any(not row["iscrowd"] and low <= row["area"] <= high for row in rows)

    def _results(self) -> Any:
        """(N, 7) with the image id in front, the array form that `loadRes` takes."""
        records = self.sorted_records()
        parts = [np.column_stack([np.full(len(r), key), r]) for key, r in records.items()]
        return np.concatenate(parts) if parts else np.zeros((0, 7))

    def write(self, folder: Path) -> None:
        """The boxes in COCO's result format."""
        results = [
            {
                "image_id": int(row[0]),
                "category_id": int(row[6]),
                "bbox": row[1:5].tolist(),
                "score": float(row[5]),
            }
            for row in self._results()
        ]
        (folder / self.file).write_text(json.dumps(results))

    def curves(self) -> dict[str, tuple[Array, Array]]:
        """Precision over recall, mean over the categories present, at IoU 0.5 and 0.75."""
        if self.evaluation is None:
            return {}
        # (IoU threshold, recall, category, area, detections); -1 marks an absent category.
        precision = np.asarray(self.evaluation.eval["precision"])[..., 0, -1]
        recall = np.linspace(0, 1, precision.shape[1])
        curves = {}
        for name, index in (("IoU 0.50", 0), ("IoU 0.75", 5)):
            present = precision[index][:, (precision[index] > -1).any(0)]
            if present.size:
                curves[name] = (recall, present.mean(1))
        return curves


class CocoMaskAP(CocoAP):
    """Mask AP as COCO defines it.

    Results are `Masks`; a record is the image's rows of the result file.
    """

    iou_type = "segm"
    file = "segm.json"

    def _record(self, found: Any, image_id: int) -> Any:
        categories = self.ids[found.labels.cpu().numpy()].tolist()
        return [
            {"image_id": image_id, "category_id": category, "segmentation": rle, "score": score}
            for category, rle, score in zip(
                categories, found.rles, found.scores.double().tolist(), strict=True
            )
        ]

    def _results(self) -> list[dict[str, Any]]:
        # The evaluators add to the rows that they are given.
        return [dict(row) for rows in self.sorted_records().values() for row in rows]

    def write(self, folder: Path) -> None:
        """The masks in COCO's result format."""
        (folder / self.file).write_text(json.dumps(self._results()))


def _faster(document: dict[str, Any]) -> tuple[Any, Any]:
    from faster_coco_eval import COCO, COCOeval_faster

    return COCO(document, use_deepcopy=True), COCOeval_faster


def _pycocotools(document: dict[str, Any]) -> tuple[Any, Any]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = copy.deepcopy(document)
    truth.createIndex()
    return truth, COCOeval


EVALUATORS = {"faster": _faster, "pycocotools": _pycocotools}
"""COCO's json → the truth, indexed, and the class that evaluates against it; both are alike."""
