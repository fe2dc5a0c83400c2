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
from unified.ops.boxes import decode_boxes, inside_any, to_original
from unified.ops.dense import (
    Anchors,
    DenseBoxes,
    Kept,
    Matches,
    Suppression,
    candidates,
    per_anchor,
)
from unified.ops.matching import LevelMatch, match_level
from unified.task import DataSpec, Losses, Mean, Metric, Task, Upstream
from unified.trunks.features import FeatureSpec

REFERENCE_SIZE = 640
REFERENCE_CLASSES = 80


class Detection(Task):
    """Boxes, objectness and categories at every cell and anchor.

    Args:
        features, data: what trunk and data set publish.
        anchors: pixel sizes at 640 px, `[[[w, h], …] per level]`, or `auto` for k-means over the
            training boxes.
        per_level: anchors per level.
        expansion: width of the head's stem over the trunk's level.
        max_ratio: a box matches an anchor whose side ratios are all below this.
        level_balance: weight of each level's objectness, finest first.
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
        level_balance: Sequence[NonNegative] = (4.0, 1.0, 0.4),
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
        self.strides = tuple(level.stride for level in features.values())
        if len(level_balance) != len(self.levels):
            raise ConfigError(
                f"task.detection.level_balance has {len(level_balance)} numbers, the trunk "
                f"{len(self.levels)} levels",
                "give one number per level",
            )
        source: ObjectSource | None = data.source(ObjectAsk)  # type: ignore[assignment]
        start = initial_anchors(
            anchors, per_level, len(self.levels), data.image_size / REFERENCE_SIZE,
            source.sizes(data.image_size) if source else None, f"task.{self.name}",
        )  # fmt: skip
        self.head = DetectionHead(features, self.classes, start, expansion)
        self.max_ratio, self.level_balance = max_ratio, tuple(level_balance)
        self.suppression = Suppression(min_score, max_candidates, nms_iou, max_detections)
        self.evaluator = evaluator
        self.loss_weights = _scale_weights(loss_weights or {}, data.image_size, self.classes)

    def built(self) -> Sequence[Anchors]:
        return (Anchors(self.levels, self.head.per_cell),)

    def shares(self, outputs: Mapping[str, Tensor]) -> Sequence[DenseBoxes]:
        raw = [per_anchor(outputs[level], self.head.per_cell) for level in self.levels]
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
        rows = (~targets.crowd).nonzero().squeeze(1)
        found, parts = [], []
        for index, level in enumerate(self.levels):
            raw = per_anchor(outputs[level], self.head.per_cell)
            match = match_level(
                targets.boxes[rows], targets.image[rows], self.head.anchors[index],
                (raw.shape[2], raw.shape[3]), self.strides[index], self.max_ratio,
            )  # fmt: skip
            found.append(match)
            parts.append(self._level_loss(raw, match, rows[match.target], targets, index))
        losses = {
            name: Mean(*(torch.stack(sums) for sums in zip(*own, strict=True)))
            for name, own in zip(self.losses, zip(*parts, strict=True), strict=True)
        }
        return losses, Matches.of_levels(found, rows, self.levels)

    def _level_loss(
        self, raw: Tensor, match: LevelMatch, target: Tensor, targets: ObjectTargets, index: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Total and count of box, objectness and category; `target` are rows of the targets."""
        place = (match.image, match.anchor, match.y, match.x)
        chosen = raw[place].float()  # (K, 5 + C)
        boxes = decode_boxes(
            chosen[:, :4], torch.stack([match.x, match.y], 1),
            self.head.anchors[index][match.anchor], self.strides[index],
        )  # fmt: skip
        box_losses = complete_box_iou_loss(boxes, targets.boxes[target])
        labels = F.one_hot(targets.labels[target], self.classes).float()
        category = F.binary_cross_entropy_with_logits(chosen[:, 5:], labels, reduction="sum")
        # Two boxes may claim one anchor: the better prediction counts, whatever the order.
        goal = torch.zeros(raw.shape[:4], device=raw.device)
        quality = (1 - box_losses.detach()).clamp(min=0)
        goal.view(-1).scatter_reduce_(0, _ravel(place, goal.shape), quality, "amax")
        counted = _counted_cells(targets, goal, self.strides[index])
        losses = F.binary_cross_entropy_with_logits(raw[..., 4].float(), goal, reduction="none")
        matched = chosen.new_tensor(len(target))
        return [
            (box_losses.sum(), matched),
            (self.level_balance[index] * (losses * counted).sum(), counted.sum()),
            (category / self.classes, matched),
        ]

    def keep(self, outputs: Mapping[str, Tensor], upstream: Upstream) -> Kept:
        """Best candidates by score, non-maximum suppression per category."""
        raw = [per_anchor(outputs[level], self.head.per_cell) for level in self.levels]
        found = candidates(raw, self.head.anchors, self.strides)
        return self.suppression.keep(*found, self.levels)

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


def _counted_cells(targets: ObjectTargets, goal: Tensor, stride: int) -> Tensor:
    """(B, A, H, W) 1 where objectness is known: labelled images, not a crowd's background."""
    crowd = targets.crowd
    b, a, h, w = goal.shape
    ignored = inside_any(targets.boxes[crowd], targets.image[crowd], b, (h, w), stride)
    known = targets.known[:, None, None, None] & (~ignored[:, None] | (goal > 0))
    return known.expand(b, a, h, w).float()


def _scale_weights(weights: Mapping[str, float], size: int, classes: int) -> dict[str, float]:
    factors = {
        "objectness": (size / REFERENCE_SIZE) ** 2,
        "category": classes / REFERENCE_CLASSES,
    }
    return {name: weight * factors.get(name, 1.0) for name, weight in weights.items()}


def _ravel(place: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Flat indices of multi-dimensional ones."""
    flat = place[0]
    for index, size in zip(place[1:], shape[1:], strict=True):
        flat = flat * size + index
    return flat
