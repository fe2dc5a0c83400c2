"""Instance segmentation: a mask for every detection, assembled from shared prototypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from heads.instance import InstanceHead
from unified.batch import Batch
from unified.bounds import Count, Name, NonNegative
from unified.kinds.kind import STRONG, Source
from unified.kinds.masks import MaskAsk, Masks, MaskTargets
from unified.kinds.objects import ObjectAsk, ObjectTargets, find_objects
from unified.ops.boxes import to_original
from unified.ops.dense import Anchors, Cells, Kept, Matches, per_anchor
from unified.ops.masks import MaskParts, encode_inside, mask_loss
from unified.task import DataSpec, Losses, Metric, Task, Upstream
from unified.trunks.features import FeatureSpec

FINER = 2
"""Masks are drawn this many times finer than prototypes, which are compared between cells too."""


class Instance(Task):
    """Prototypes from the finest level, coefficients at the anchors that detection chose.

    Args:
        features, data, upstream: what trunk, data set and detection publish.
        prototypes: number of shared masks.
        width: channels of the head's stems.
        grid: points per side at which a mask is compared with the truth inside of its box.
        evaluator: `faster` (faster-coco-eval) or `pycocotools`.
        view: in which it learns; must be that of detection.
        loss_weights: fixed weight of `mask`.

    Publishes `MaskParts` in decoding.
    """

    name = "instance"
    requires = (Anchors, Matches, Kept)
    publishes = (MaskParts,)
    truth = MaskAsk
    losses = ("mask",)

    def __init__(
        self,
        features: FeatureSpec,
        data: DataSpec,
        upstream: Upstream,
        prototypes: Count = 32,
        width: Count = 64,
        grid: Count = 28,
        evaluator: Literal["faster", "pycocotools"] = "faster",
        view: Name = STRONG,
        loss_weights: Mapping[str, NonNegative] | None = None,
    ) -> None:
        super().__init__()
        data.space(MaskAsk)  # refused where there are none
        self.head = InstanceHead(features, upstream[Anchors].per_cell, prototypes, width)
        self.asks = (ObjectAsk(view), MaskAsk(view, self.head.stride // FINER))
        self.grid, self.evaluator = grid, evaluator
        self.loss_weights = dict(loss_weights or {})

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> tuple[Losses, None]:
        """Masks of the matched anchors against those of their objects.

        Reads boxes (M, 4) of the targets `objects`, masks (N, s, s) of the targets `masks`.
        """
        matches = upstream[Matches]
        objects: ObjectTargets = batch.labels["objects"]  # type: ignore[assignment]
        masks: MaskTargets = batch.labels["masks"]  # type: ignore[assignment]
        loss = mask_loss(
            outputs["prototypes"], self._coefficients(outputs, matches.cells), matches.target,
            find_objects(objects, masks.image, masks.keys), objects.boxes, objects.image,
            masks.masks, self.head.stride, self.grid,
        )  # fmt: skip
        return {"mask": loss}, None

    def _coefficients(self, outputs: Mapping[str, Tensor], cells: Cells) -> Tensor:
        """(K, P) of the anchors that detection chose."""
        count = self.head.per_cell
        return cells.gather({name: per_anchor(outputs[name], count) for name in self.head.levels})

    def keep(self, outputs: Mapping[str, Tensor], upstream: Upstream) -> MaskParts:
        coefficients = self._coefficients(outputs, upstream[Kept].cells)
        return MaskParts(coefficients, outputs["prototypes"], self.head.stride)

    def finish(self, kept: MaskParts, batch: Batch, upstream: Upstream) -> list[Masks]:
        """Each detection's mask inside of its box, at the original resolution."""
        found = upstream[Kept]
        results = []
        for index, meta in enumerate(batch.metas):
            rows = (found.cells.image == index).nonzero().squeeze(1)
            boxes = to_original(found.boxes[rows], meta)
            rles = encode_inside(kept.logits(index, rows), boxes, kept.stride, meta)
            results.append(Masks(boxes, found.scores[rows], found.labels[rows], rles))
        return results

    def metric(self, source: Source) -> Metric:
        from unified.metrics.coco_ap import CocoMaskAP

        return CocoMaskAP(source, self.evaluator)
