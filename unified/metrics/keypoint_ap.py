"""COCO keypoint average precision, by object keypoint similarity (OKS)."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unified.errors import ConfigError
from unified.kinds.keypoints import PIXEL, Keypoints, KeypointSpace
from unified.kinds.kind import Source
from unified.metrics.coco_ap import AREAS, EVALUATORS
from unified.metrics.collect import Collector, Lookup
from unified.view import ImageMeta

NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")


class CocoKeypointAP(Collector[list[dict[str, Any]]]):
    """Keypoint AP as COCO defines it, with the sigmas of the space.

    Categories have different joints, so each is evaluated by itself; the scores are their mean.
    A record is the image's rows of the result file. A pose scores as its detection times its
    quality (as Huang et al. 2019, Mask Scoring R-CNN, score masks): an object may be found and
    badly posed.

    Args:
        source: the annotated joints; its truth is COCO's json.
        evaluator: `faster` or `pycocotools`.
    """

    primary = "AP"

    def __init__(self, source: Source, evaluator: str = "faster") -> None:
        super().__init__()
        if evaluator not in EVALUATORS:
            raise ConfigError(f"evaluator={evaluator} is unknown", "use faster or pycocotools")
        self.source, self.evaluator, self.known = source, evaluator, Lookup(source)
        self.space: KeypointSpace = source.space

    def update(self, results: Sequence[Keypoints], metas: Sequence[ImageMeta]) -> None:
        for meta, found in zip(metas, results, strict=True):
            if self.known[meta.image_id] is not None:
                self.records[meta.image_id] = self._rows(found, meta.image_id)

    def _rows(self, found: Keypoints, image: int) -> list[dict[str, Any]]:
        rows = zip(
            found.labels.tolist(), (found.scores * found.quality).double().tolist(),
            found.joints.double().tolist(), strict=True,
        )  # fmt: skip
        return [
            {
                "image_id": image,
                "category_id": self.space.ids[label],
                "keypoints": [
                    v
                    for x, y, _ in joints[: len(self.space.joints[label])]
                    for v in (x - PIXEL, y - PIXEL, 1)
                ],
                "score": score,
            }
            for label, score, joints in rows
        ]

    def compute(self) -> dict[str, float]:
        results = [row for rows in self.sorted_records().values() for row in rows]
        every = [self._evaluate(category, results) for category in range(len(self.space))]
        scored = [stats for stats in every if stats is not None]
        if not scored:
            return dict.fromkeys(NAMES, math.nan if self.records else 0.0)
        return dict(zip(NAMES, map(_mean, zip(*scored, strict=True)), strict=True))

    def _evaluate(self, category: int, results: list[dict[str, Any]]) -> list[float] | None:
        """The ten numbers of one category; None where it has no joints to be found."""
        key = self.space.ids[category]
        areas = [
            row["area"]
            for row in self.source.truth()["annotations"]
            if row["category_id"] == key and row["num_keypoints"] and not row["iscrowd"]
            and row["image_id"] in self.records
        ]  # fmt: skip
        if not areas:
            return None
        mine = [dict(row) for row in results if row["category_id"] == key]
        if not mine:
            found = {e: any(low <= a <= high for a in areas) for e, (low, high) in AREAS.items()}
            return [0.0 if found.get(name[-1], True) else math.nan for name in NAMES]
        with contextlib.redirect_stdout(io.StringIO()):
            truth, evaluate = self.truth
            evaluation = evaluate(truth, truth.loadRes(mine), "keypoints")
            evaluation.params.imgIds = sorted(self.records)
            evaluation.params.catIds = [key]
            evaluation.params.kpt_oks_sigmas = np.array(self.space.sigmas[category])
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return [float(v) if v >= 0 else math.nan for v in evaluation.stats[: len(NAMES)]]

    @cached_property
    def truth(self) -> tuple[Any, Any]:
        """The truth, indexed once for all validations, and its evaluation class."""
        return EVALUATORS[self.evaluator](self.source.truth())

    def write(self, folder: Path) -> None:
        """`keypoints.json` in COCO's result format."""
        rows = [row for rows in self.sorted_records().values() for row in rows]
        (folder / "keypoints.json").write_text(json.dumps(rows))


def _mean(values: Sequence[float]) -> float:
    """Of those that are numbers."""
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan
