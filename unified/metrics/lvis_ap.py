"""LVIS average precision: COCO's, where each category is scored on the images searched for it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from unified.kinds.kind import Source
from unified.metrics.coco_ap import CocoAP

MOST = 300
"""Results of an image that count."""
NAMES = {
    "AP": "AP_all", "AP50": "AP_50", "AP75": "AP_75", "APr": "APr", "APc": "APc", "APf": "APf",
    "APs": "AP_small", "APm": "AP_medium", "APl": "AP_large", f"AR{MOST}": "AR_all",
}  # fmt: skip
"""Our names → the evaluator's."""


class LvisAP(CocoAP):
    """Box AP as LVIS defines it (Gupta et al. 2019), by faster-coco-eval.

    APr, APc and APf are of the rare, common and frequent categories. Results of a category count in
    images where it is annotated or known to be absent; in those where it is not annotated
    exhaustively, none is wrong.

    Args:
        source: the federated objects; its truth is LVIS's json.
    """

    names = tuple(NAMES)
    file = "lvis.json"

    def __init__(self, source: Source) -> None:
        super().__init__(source)

    def _record(self, found: Any, image_id: int) -> Any:
        """LVIS counts the best of an image, whatever their categories."""
        record = super()._record(found, image_id)
        return record[np.argsort(-record[:, 4], kind="stable")[:MOST]]

    def _evaluation(self, evaluate: Any, truth: Any, found: Any) -> Any:
        evaluation = evaluate(truth, found, self.iou_type, lvis_style=True)
        evaluation.params.maxDets = [MOST]
        return evaluation

    def _stats(self) -> list[float]:
        return [self.evaluation.stats_as_dict[own] for own in NAMES.values()]

    def _has_truth(self, name: str) -> bool:
        """The last letter may be that of a frequency."""
        if name not in ("APr", "APc", "APf"):
            return super()._has_truth(name)
        space, rows = self.source.space, self.source.truth()["annotations"]
        of = dict(zip(space.ids, space.frequency, strict=True))
        return any(not row["iscrowd"] and of[row["category_id"]] == name[-1] for row in rows)

    @cached_property
    def truth(self) -> tuple[Any, Any]:
        """The truth, indexed once for all validations, and its evaluation class."""
        from faster_coco_eval import COCO, COCOeval_faster

        return COCO(self.source.truth(), use_deepcopy=True), COCOeval_faster
