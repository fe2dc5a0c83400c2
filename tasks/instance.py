"""Instance segmentation: a mask for every detection, assembled from shared prototypes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from heads.instance import InstanceHead
from unified.data.coco import CocoSplit
from unified.errors import ConfigError
from unified.metrics.coco_ap import CocoMaskAP
from unified.ops.boxes import to_original
from unified.ops.losses import zero_of
from unified.ops.masks import encode_inside, mask_loss
from unified.specs import (
    Batch,
    Cells,
    DataSpec,
    Detections,
    FeatureSpec,
    Kept,
    MaskLogits,
    Masks,
    Matches,
    Upstream,
)

FINER = 2
"""Masks are drawn this many times finer than prototypes, which are compared between cells too."""


class Instance:
    """Prototypes from the finest level, coefficients at the anchors that detection chose.

    Args:
        features, data: what trunk and data set publish.
        per_level: anchors per cell; must be that of detection.
        prototypes: number of shared masks.
        width: channels of the head's stems.
        grid: points per side at which a mask is compared with the truth inside of its box.
        evaluator: `faster` (faster-coco-eval) or `pycocotools`.
        loss_weights: fixed weight of `mask`.

    Publishes `MaskLogits` in decoding.
    """

    name = "instance"
    requires = ("detection",)

    def __init__(
        self,
        features: FeatureSpec,
        data: DataSpec,
        per_level: int = 3,
        prototypes: int = 32,
        width: int = 64,
        grid: int = 28,
        evaluator: str = "faster",
        loss_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.labels = data.labels_for(self.name, "instances")
        self.head = InstanceHead(features, per_level, prototypes, width)
        self.maps = {"instances": self.head.stride // FINER}
        self.grid, self.evaluator = grid, evaluator
        self.loss_weights = dict(loss_weights or {})

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> dict[str, Tensor]:
        """Masks of the matched anchors against those of their targets."""
        zero = zero_of(outputs)
        matches: Matches = upstream["detection"]
        targets = batch.targets
        if targets.masks is None:
            return {"mask": zero}
        coefficients = self._coefficients(outputs, matches.cells)
        loss = mask_loss(
            outputs["prototypes"], coefficients, matches.target, targets.boxes, targets.image,
            targets.masks, self.head.stride, self.grid,
        )  # fmt: skip
        return {"mask": loss + zero}

    def _coefficients(self, outputs: Mapping[str, Tensor], cells: Cells) -> Tensor:
        """(K, P) of the anchors that detection chose."""
        count = self.head.per_cell
        if count != cells.per_cell:
            raise ConfigError(
                f"task.instance.per_level={count}, and detection has {cells.per_cell} anchors per "
                "cell",
                f"set task.instance.per_level={cells.per_cell}, or leave it out",
            )
        # Level → (B, A, P, H, W)
        return cells.gather({n: outputs[n].unflatten(1, (count, -1)) for n in self.head.levels})

    def decode(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> list[Masks]:
        """Each detection's mask inside of its box, at the original resolution."""
        kept: Kept = upstream["detection"]
        coefficients = self._coefficients(outputs, kept.cells)
        logits, found, masks = [], [], []
        for index, meta in enumerate(batch.metas):
            rows = kept.cells.image == index
            boxes, scores, labels = kept.boxes[rows], kept.scores[rows], kept.labels[rows]
            prototypes = outputs["prototypes"][index].float()
            own = torch.einsum("np,phw->nhw", coefficients[rows], prototypes)
            boxes = to_original(boxes, meta)
            rles = encode_inside(own, boxes, self.head.stride, meta)
            logits.append(own)
            found.append(Detections(boxes, scores, labels))
            masks.append(Masks(boxes, scores, labels, rles))
        upstream[self.name] = MaskLogits(logits, found, self.head.stride)
        return masks

    def metric(self, truth: CocoSplit) -> CocoMaskAP:
        return CocoMaskAP(truth, self.labels, self.evaluator)
