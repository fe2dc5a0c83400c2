"""COCO average precision by faster-coco-eval, or by pycocotools for reference."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unified.errors import ConfigError
from unified.metrics.collect import Collector
from unified.specs import Array, Batch, Detections, LabelSpace

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class CocoAP(Collector[Array]):
    """Box AP as COCO defines it.

    Args:
        truth: the annotation json of the split.
        labels: maps class indices to category ids.
        evaluator: `faster` or `pycocotools`.

    A record is (N, 6): x, y, width, height, score, category id.
    """

    primary = "AP"

    def __init__(self, truth: Path, labels: LabelSpace, evaluator: str = "faster") -> None:
        super().__init__()
        if evaluator not in ("faster", "pycocotools"):
            raise ConfigError(f"evaluator={evaluator} is unknown", "use faster or pycocotools")
        self.truth, self.labels, self.evaluator = truth, labels, evaluator
        self.ids = np.array(labels.ids)
        self.evaluation: Any = None

    def update(self, predictions: Sequence[Detections], batch: Batch) -> None:
        for meta, found in zip(batch.metas, predictions, strict=True):
            if meta.view == 0:
                boxes = found.boxes.double().cpu().numpy()
                row = np.column_stack(
                    [
                        boxes[:, :2],
                        boxes[:, 2:] - boxes[:, :2],
                        found.scores.double().cpu().numpy(),
                        self.ids[found.labels.cpu().numpy()],
                    ]
                )
                self.records[meta.image_id] = row

    def compute(self) -> dict[str, float]:
        self.gather()
        rows = self._rows()
        if not len(rows):
            return dict.fromkeys(NAMES, 0.0)
        coco_class, eval_class = _load_evaluator(self.evaluator)
        with contextlib.redirect_stdout(io.StringIO()):
            truth = coco_class(str(self.truth))
            evaluation = eval_class(truth, truth.loadRes(rows), "bbox")
            evaluation.params.imgIds = sorted(self.records)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        self.evaluation = evaluation
        return {name: float(v) for name, v in zip(NAMES, evaluation.stats, strict=False)}

    def _rows(self) -> Array:
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
            for row in self._rows()
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


def _load_evaluator(name: str) -> tuple[Any, Any]:
    if name == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    from faster_coco_eval import COCO as FasterCOCO
    from faster_coco_eval import COCOeval_faster

    return FasterCOCO, COCOeval_faster
