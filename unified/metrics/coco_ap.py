"""COCO average precision by faster-coco-eval, or by pycocotools for reference."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unified.data.coco import CocoSplit
from unified.data.truth import instances_document
from unified.errors import ConfigError
from unified.metrics.collect import Collector
from unified.ops.rle import encode
from unified.specs import Array, Batch, LabelSpace

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class CocoAP(Collector[Any]):
    """Box AP as COCO defines it.

    Args:
        truth: the annotated split.
        labels: maps class indices to category ids.
        evaluator: `faster` or `pycocotools`.

    Predictions are `Detections`; a record is (N, 6): x, y, width, height, score, category id.
    """

    primary = "AP"
    iou_type = "bbox"

    def __init__(self, truth: CocoSplit, labels: LabelSpace, evaluator: str = "faster") -> None:
        super().__init__()
        if evaluator not in ("faster", "pycocotools"):
            raise ConfigError(f"evaluator={evaluator} is unknown", "use faster or pycocotools")
        truth.require("instances")
        self.truth, self.labels, self.evaluator = truth, labels, evaluator
        self.ids = np.array(labels.ids)
        self.evaluation: Any = None

    def update(self, predictions: Sequence[Any], batch: Batch) -> None:
        for meta, found in zip(batch.metas, predictions, strict=True):
            if meta.view == 0 and self.truth.has_instances[self.truth.position[meta.image_id]]:
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

    @cached_property
    def document(self) -> dict[str, Any]:
        """The annotations to score against, in COCO's form."""
        return instances_document(self.truth, masks=self.iou_type == "segm")

    def compute(self) -> dict[str, float]:
        self.gather()
        results = self._results()
        if not len(results):
            return dict.fromkeys(NAMES, 0.0)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = _evaluation(self.evaluator, self.document, results, self.iou_type)
            evaluation.params.imgIds = sorted(self.records)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        self.evaluation = evaluation
        return {name: float(v) for name, v in zip(NAMES, evaluation.stats, strict=False)}

    def _results(self) -> Any:
        """(N, 7) with the image id in front, the array form that `loadRes` takes."""
        parts = [np.column_stack([np.full(len(r), key), r]) for key, r in self.records.items()]
        return np.concatenate(parts) if parts else np.zeros((0, 7))

    def write(self, folder: Path) -> None:
        """`bbox.json` in COCO's result format."""
        results = [
            {
                "image_id": int(row[0]),
                "category_id": int(row[6]),
                "bbox": row[1:5].tolist(),
                "score": float(row[5]),
            }
            for row in self._results()
        ]
        (folder / "bbox.json").write_text(json.dumps(results))

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

    Predictions are `Masks`; a record is the image's rows of the result file.
    """

    iou_type = "segm"

    @cached_property
    def document(self) -> dict[str, Any]:
        document = super().document
        sizes = {row["id"]: (row["height"], row["width"]) for row in document["images"]}
        for row in document["annotations"]:
            if not row.get("segmentation"):
                # An object without a mask: nothing can match it.
                row["segmentation"] = encode(np.zeros(sizes[row["image_id"]]))
        return document

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
        return [dict(row) for rows in self.records.values() for row in rows]

    def write(self, folder: Path) -> None:
        """`segm.json` in COCO's result format."""
        (folder / "segm.json").write_text(json.dumps(self._results()))


def _evaluation(name: str, document: dict[str, Any], results: Any, iou_type: str) -> Any:
    """An evaluation, not yet run; both evaluators have the same interface."""
    if name == "faster":
        from faster_coco_eval import COCO as FasterCOCO
        from faster_coco_eval import COCOeval_faster

        truth = FasterCOCO(document, use_deepcopy=True)
        return COCOeval_faster(truth, truth.loadRes(results), iou_type)
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = copy.deepcopy(document)
    truth.createIndex()
    return COCOeval(truth, truth.loadRes(results), iou_type)
