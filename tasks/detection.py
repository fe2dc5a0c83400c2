"""Object detection: anchor-based, one stage, as the released YOLOR detector trains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import complete_box_iou_loss

from heads.detection import DetectionHead
from unified.batch import Batch
from unified.bounds import Count, Name, NonNegative, Positive, Ratio, Share
from unified.errors import ConfigError
from unified.kinds.kind import STRONG
from unified.kinds.objects import Detections, ObjectAsk, ObjectSource, ObjectTargets
from unified.ops.anchors import initial_anchors
from unified.ops.boxes import inside_any, to_original
from unified.ops.dense import (
    Anchors,
    DenseBoxes,
    Kept,
    Matches,
    Suppression,
    candidates,
    per_anchor,
)
from unified.ops.matching import match
from unified.task import DataSpec, Losses, Mean, Metric, Task, Upstream
from unified.trunks.features import FeatureSpec

REFERENCE_SIZE = 640
REFERENCE_CLASSES = 80
LEVEL_BALANCE = (4.0, 1.0, 0.4, 0.1)
"""Of the released models, of as many levels as a trunk has."""


class Detection(Task):
    """Boxes, objectness and categories at every cell and anchor.

    Args:
        features, data: what trunk and data set publish.
        anchors: pixel sizes at 640 px, `[[[w, h], …] per level]`, or `auto` for k-means over the
            training boxes.
        per_level: anchors per level.
        expansion: width of the head's stem over the trunk's level.
        max_ratio: a box matches an anchor whose side ratios are all below this.
        level_balance: weight of each level's objectness, finest first; None for the released ones.
        min_score: candidates below are dropped before suppression.
        max_candidates: best candidates per image that enter suppression.
        nms_iou: overlap at which the lower-scored box of a category is suppressed.
        max_detections: kept per image.
        evaluator: `faster` (faster-coco-eval) or `pycocotools`.
        view: in which it learns.
        loss_weights: fixed weights of box, objectness and category at 640 px and 80 categories.
            Objectness is a mean over cells, of which small inputs have fewer empty ones, and
            category a mean over categories: both are scaled to the data at hand.

    Publishes `Anchors` when building, `DenseBoxes` of its outputs, `Matches` in training and `Kept`
    in decoding.
    """

    name = "detection"
    publishes = (Anchors, DenseBoxes, Matches, Kept)
    truth = ObjectAsk
    measured = ("anchors",)
    losses = ("box", "objectness", "category")

    def __init__(
        self,
        features: FeatureSpec,
        data: DataSpec,
        anchors: str | Sequence[Sequence[Sequence[Positive]]] = "auto",
        per_level: Count = 3,
        expansion: Positive = 2.0,
        max_ratio: Ratio = 4.0,
        level_balance: Sequence[NonNegative] | None = None,
        min_score: Share = 0.001,
        max_candidates: Count = 3000,
        nms_iou: Share = 0.65,
        max_detections: Count = 100,
        evaluator: Literal["faster", "pycocotools"] = "faster",
        view: Name = STRONG,
        loss_weights: Mapping[str, NonNegative] | None = None,
    ) -> None:
        super().__init__()
        self.asks = (ObjectAsk(view),)
        self.classes = len(data.space(ObjectAsk))
        self.levels = tuple(features)
        strides = torch.tensor([level.stride for level in features.values()], dtype=torch.float32)
        self.register_buffer("strides", strides, persistent=False)
        balance = LEVEL_BALANCE[: len(self.levels)] if level_balance is None else level_balance
        if len(balance) != len(self.levels):
            raise ConfigError(
                f"task.detection.level_balance has {len(balance)} numbers, the trunk "
                f"{len(self.levels)} levels",
                "give one number per level",
            )
        source: ObjectSource | None = data.source(ObjectAsk)  # type: ignore[assignment]
        start = initial_anchors(
            anchors, per_level, len(self.levels), data.image_size / REFERENCE_SIZE,
            source.sizes(data.image_size) if source else None, f"task.{self.name}",
        )  # fmt: skip
        self.head = DetectionHead(features, self.classes, start, expansion)
        self.max_ratio, self.level_balance = max_ratio, tuple(balance)
        self.suppression = Suppression(min_score, max_candidates, nms_iou, max_detections)
        self.evaluator = evaluator
        self.loss_weights = _scale_weights(loss_weights or {}, data.image_size, self.classes)

    strides: Tensor

    def built(self) -> Sequence[Anchors]:
        return (Anchors(self.levels, self.head.per_cell),)

    def shares(self, outputs: Mapping[str, Tensor]) -> Sequence[DenseBoxes]:
        raw = {name: per_anchor(outputs[name], self.head.per_cell) for name in self.levels}
        return (DenseBoxes(raw, self.head.anchors, self.strides),)

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> tuple[Losses, Matches]:
        """CIoU of matched anchors, objectness with the IoU as target, category of matched anchors.

        Reads the targets `objects`: boxes (M, 4), labels (M,), crowd (M,). Each part is a mean
        per level, summed over levels; objectness is balanced over levels. Crowd regions and
        images without boxes labelled count in no part.
        """
        targets: ObjectTargets = batch.labels["objects"]  # type: ignore[assignment]
        (dense,) = self.shares(outputs)
        matches = match(targets.boxes, targets.image, ~targets.crowd, dense, self.max_ratio)
        cells, target = matches.cells, matches.target
        chosen = cells.gather(dense.raw)  # (K, 5 + C)
        boxes = dense.decode(chosen, cells)
        box_losses = complete_box_iou_loss(boxes, targets.boxes[target])
        labels = F.one_hot(targets.labels[target], self.classes).float()
        category = F.binary_cross_entropy_with_logits(chosen[:, 5:], labels, reduction="none")
        matched = cells.per_level(torch.ones_like(box_losses))
        # Two boxes may claim one anchor: the better prediction counts, whatever the order.
        goals = cells.spread(1 - box_losses.detach(), dense.raw)
        return {
            "box": Mean(cells.per_level(box_losses), matched),
            "objectness": self._objectness(dense, goals, targets),
            "category": Mean(cells.per_level(category.sum(1)) / self.classes, matched),
        }, matches

    def _objectness(
        self, dense: DenseBoxes, goals: Mapping[str, Tensor], targets: ObjectTargets
    ) -> Mean:
        """Of every anchor against level → (B, A, H, W), balanced over levels."""
        totals, counts = [], []
        for index, (name, goal) in enumerate(goals.items()):
            raw = dense.raw[name][..., 4].float()
            counted = _counted_cells(targets, goal, dense.strides[index])
            losses = F.binary_cross_entropy_with_logits(raw, goal, reduction="none")
            totals.append(self.level_balance[index] * (losses * counted).sum())
            counts.append(counted.sum())
        return Mean(torch.stack(totals), torch.stack(counts))

    def keep(self, outputs: Mapping[str, Tensor], upstream: Upstream) -> Kept:
        """Best candidates by score, non-maximum suppression per category."""
        return self.suppression.keep(*candidates(*self.shares(outputs)), self.levels)

    def finish(self, kept: Kept, batch: Batch, upstream: Upstream) -> list[Detections]:
        """Boxes in original pixels."""
        results = []
        for index, meta in enumerate(batch.metas):
            own = kept.cells.image == index
            boxes = to_original(kept.boxes[own], meta)
            results.append(Detections(boxes, kept.scores[own], kept.labels[own]))
        return results

    def metric(self, source: ObjectSource) -> Metric:
        from unified.metrics.coco_ap import CocoAP

        return CocoAP(source, self.evaluator)


def _counted_cells(targets: ObjectTargets, goal: Tensor, stride: Tensor) -> Tensor:
    """(B, A, H, W) 1 where objectness is known: labelled images, not a crowd's background."""
    b, a, h, w = goal.shape
    ignored = inside_any(targets.boxes, targets.image, targets.crowd, b, (h, w), stride)
    known = targets.known[:, None, None, None] & (~ignored[:, None] | (goal > 0))
    return known.expand(b, a, h, w).float()


def _scale_weights(weights: Mapping[str, float], size: int, classes: int) -> dict[str, float]:
    factors = {
        "objectness": (size / REFERENCE_SIZE) ** 2,
        "category": classes / REFERENCE_CLASSES,
    }
    return {name: weight * factors.get(name, 1.0) for name, weight in weights.items()}
