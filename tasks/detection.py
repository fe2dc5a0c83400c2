"""Object detection: anchor-based, one stage, as the released YOLOR detector trains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, complete_box_iou_loss

from heads.detection import DetectionHead
from unified.data.coco import CocoSplit
from unified.errors import ConfigError
from unified.metrics.coco_ap import CocoAP
from unified.ops.anchors import cluster_anchors
from unified.ops.boxes import decode_boxes, inside_any, to_original
from unified.ops.losses import zero_of
from unified.ops.matching import LevelMatch, match_level
from unified.specs import (
    Batch,
    Cells,
    DataSpec,
    Detections,
    FeatureSpec,
    Kept,
    Matches,
    Targets,
    Upstream,
)

REFERENCE_SIZE = 640
REFERENCE_CLASSES = 80


class Detection:
    """Boxes, objectness and categories at every cell and anchor.

    Args:
        features, data: what trunk and data set publish.
        anchors: pixel sizes at 640 px, `[[[w, h], …] per level]`, or `auto` for k-means over the
            training boxes.
        per_level: anchors per level.
        expansion: width of the head's stem over the trunk's level.
        max_ratio: a box matches an anchor whose side ratios are all below this.
        level_balance: weight of each level's objectness.
        min_score, max_candidates, nms_iou, max_detections: decoding; candidates are capped by
            score before non-maximum suppression.
        evaluator: `faster` (faster-coco-eval) or `pycocotools`.
        loss_weights: fixed weights of box, objectness and category at 640 px and 80 categories.
            Objectness is a mean over cells, of which small inputs have fewer empty ones, and
            category a mean over categories: both are scaled to the data at hand.

    Publishes `Matches` in training and `Kept` in decoding.
    """

    name = "detection"
    requires: tuple[str, ...] = ()

    def __init__(
        self,
        features: FeatureSpec,
        data: DataSpec,
        anchors: str | Sequence[Sequence[Sequence[float]]] = "auto",
        per_level: int = 3,
        expansion: float = 2.0,
        max_ratio: float = 4.0,
        level_balance: Sequence[float] = (4.0, 1.0, 0.4),
        min_score: float = 0.001,
        max_candidates: int = 3000,
        nms_iou: float = 0.65,
        max_detections: int = 100,
        evaluator: str = "faster",
        loss_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.labels = data.labels_for(self.name, "instances")
        self.levels = tuple(features)
        self.strides = tuple(level.stride for level in features.values())
        if len(level_balance) != len(self.levels):
            raise ConfigError(
                f"task.detection.level_balance has {len(level_balance)} numbers, the trunk "
                f"{len(self.levels)} levels",
                "give one number per level",
            )
        start = _initial_anchors(anchors, per_level, len(self.levels), data)
        self.head = DetectionHead(features, len(self.labels), start, expansion)
        self.max_ratio, self.level_balance = max_ratio, tuple(level_balance)
        self.min_score, self.max_candidates = min_score, max_candidates
        self.nms_iou, self.max_detections = nms_iou, max_detections
        self.evaluator = evaluator
        self.loss_weights = _scale_weights(loss_weights or {}, data.image_size, len(self.labels))

    # --- Training -----------------------------------------------------------------------

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> dict[str, Tensor]:
        """CIoU of matched anchors, objectness with the IoU as target, category of matched anchors.

        Each part is a mean per level, summed over levels; objectness is balanced over levels.
        Crowd regions and images without boxes labelled count in no part.
        """
        zero = zero_of(outputs)
        parts = {"box": zero, "objectness": zero, "category": zero}
        countable = (~batch.targets.crowd).nonzero().squeeze(1)
        matches = []
        for index, level in enumerate(self.levels):
            raw = self._per_anchor(outputs[level])
            match = match_level(
                batch.targets.boxes[countable],
                batch.targets.image[countable],
                self.head.anchors[index],
                (raw.shape[2], raw.shape[3]),
                self.strides[index],
                self.max_ratio,
            )
            matches.append(match)
            box, objectness, category = self._level_loss(
                raw, match, _take(batch.targets, countable), batch, index
            )
            parts["box"] = parts["box"] + box
            parts["objectness"] = parts["objectness"] + self.level_balance[index] * objectness
            parts["category"] = parts["category"] + category
        upstream[self.name] = self._publish(matches, countable)
        return parts

    def _per_anchor(self, output: Tensor) -> Tensor:
        """(B, A·(5+C), H, W) → (B, A, H, W, 5+C)."""
        b, _, h, w = output.shape
        return output.view(b, self.head.per_cell, -1, h, w).permute(0, 1, 3, 4, 2)

    def _level_loss(
        self, raw: Tensor, match: LevelMatch, targets: Targets, batch: Batch, index: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        stride = self.strides[index]
        chosen = raw[match.image, match.anchor, match.y, match.x].float()  # (K, 5 + C)
        goal = torch.zeros(raw.shape[:4], device=raw.device)
        box = category = chosen.sum() * 0.0
        if len(chosen):
            predicted = decode_boxes(
                chosen[:, :4],
                torch.stack([match.x, match.y], 1),
                self.head.anchors[index][match.anchor],
                stride,
            )
            box_losses = complete_box_iou_loss(predicted, targets.boxes[match.target])
            box = box_losses.mean()
            labels = F.one_hot(targets.labels[match.target], len(self.labels)).float()
            category = F.binary_cross_entropy_with_logits(chosen[:, 5:], labels)
            place = (match.image, match.anchor, match.y, match.x)
            # Two boxes may claim one anchor: the better prediction counts, whatever the order.
            flat = torch.as_tensor(_ravel(place, goal.shape))
            quality = (1 - box_losses.detach()).clamp(min=0)
            goal.view(-1).scatter_reduce_(0, flat, quality, "amax")
        counted = self._counted_cells(batch, goal, stride)
        losses = F.binary_cross_entropy_with_logits(raw[..., 4].float(), goal, reduction="none")
        return box, (losses * counted).sum() / counted.sum().clamp(min=1), category

    def _counted_cells(self, batch: Batch, goal: Tensor, stride: int) -> Tensor:
        """(B, A, H, W) 1 where objectness is known: labelled images, not a crowd's background."""
        crowd = batch.targets.crowd
        b, a, h, w = goal.shape
        ignored = inside_any(
            batch.targets.boxes[crowd], batch.targets.image[crowd], b, (h, w), stride
        )
        known = batch.labelled[:, None, None, None] & (~ignored[:, None] | (goal > 0))
        return known.expand(b, a, h, w).float()

    def _publish(self, matches: list[LevelMatch], countable: Tensor) -> Matches:
        level = torch.cat([torch.full_like(m.image, i) for i, m in enumerate(matches)])
        return Matches(
            cells=Cells(
                image=torch.cat([m.image for m in matches]),
                level=level,
                anchor=torch.cat([m.anchor for m in matches]),
                y=torch.cat([m.y for m in matches]),
                x=torch.cat([m.x for m in matches]),
                levels=self.levels,
                per_cell=self.head.per_cell,
            ),
            target=countable[torch.cat([m.target for m in matches])],
        )

    # --- Decoding -----------------------------------------------------------------------

    def decode(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> list[Detections]:
        """Best candidates by score, non-maximum suppression per category, original pixels."""
        boxes, scores, cells = self._candidates(outputs)
        kept = [self._keep(boxes[i], scores[i]) for i in range(len(boxes))]
        rows = cells[torch.cat([k[3] for k in kept])]
        upstream[self.name] = Kept(
            boxes=torch.cat([k[0] for k in kept]),
            scores=torch.cat([k[1] for k in kept]),
            labels=torch.cat([k[2] for k in kept]),
            cells=Cells(
                image=torch.cat([torch.full_like(k[2], i) for i, k in enumerate(kept)]),
                level=rows[:, 0],
                anchor=rows[:, 1],
                y=rows[:, 2],
                x=rows[:, 3],
                levels=self.levels,
                per_cell=self.head.per_cell,
            ),
        )
        return [
            Detections(to_original(box, meta), score, label)
            for (box, score, label, _), meta in zip(kept, batch.metas, strict=True)
        ]

    def _candidates(self, outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (B, N, 4), scores (B, N, C) and cells (N, 4) as level, anchor, y, x."""
        boxes, scores, cells = [], [], []
        for index, level in enumerate(self.levels):
            raw = self._per_anchor(outputs[level])
            b, a, h, w, _ = raw.shape
            anchor, y, x = torch.meshgrid(
                *(torch.arange(n, device=raw.device) for n in (a, h, w)), indexing="ij"
            )
            sizes = self.head.anchors[index].view(1, a, 1, 1, 2)
            decoded = decode_boxes(
                raw[..., :4], torch.stack([x, y], -1), sizes, self.strides[index]
            )
            boxes.append(decoded.reshape(b, -1, 4))
            score = raw[..., 4:5].float().sigmoid() * raw[..., 5:].float().sigmoid()
            scores.append(score.reshape(b, -1, score.shape[-1]))
            place = torch.stack([torch.full_like(y, index), anchor, y, x], -1)
            cells.append(place.reshape(-1, 4))
        return torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(cells)

    def _keep(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes, scores, labels and candidate rows that survive in one image."""
        flat = scores.flatten()
        best, where = flat.topk(min(self.max_candidates, len(flat)))
        where = where[best > self.min_score]
        best = best[: len(where)]
        row, label = where // scores.shape[1], where % scores.shape[1]
        order = batched_nms(boxes[row], best, label, self.nms_iou)[: self.max_detections]
        return boxes[row][order], best[order], label[order], row[order]

    def metric(self, truth: CocoSplit) -> CocoAP:
        return CocoAP(truth, self.labels, self.evaluator)


def _initial_anchors(
    anchors: str | Sequence[Sequence[Sequence[float]]], per_level: int, levels: int, data: DataSpec
) -> Tensor:
    if isinstance(anchors, str):
        if anchors != "auto":
            raise ConfigError(
                f"task.detection.anchors={anchors} is unknown", "use auto or a list of sizes"
            )
        if data.box_sizes is None:
            # Rebuilt from a checkpoint, which fills the buffer in.
            return torch.ones(levels, per_level, 2)
        return cluster_anchors(data.box_sizes, levels, per_level)
    fixed = torch.tensor([[list(pair) for pair in level] for level in anchors], dtype=torch.float32)
    if fixed.ndim != 3 or fixed.shape[0] != levels or fixed.shape[2] != 2:
        raise ConfigError(
            f"task.detection.anchors has shape {tuple(fixed.shape)}, expected ({levels}, n, 2)",
            "give for each pyramid level a list of [width, height] at 640 pixels",
        )
    if fixed.shape[1] != per_level:
        raise ConfigError(
            f"task.detection.anchors has {fixed.shape[1]} sizes per level, per_level={per_level}",
            f"set task.detection.per_level={fixed.shape[1]}",
        )
    return fixed * data.image_size / REFERENCE_SIZE


def _scale_weights(weights: Mapping[str, float], size: int, classes: int) -> dict[str, float]:
    factors = {
        "objectness": (size / REFERENCE_SIZE) ** 2,
        "category": classes / REFERENCE_CLASSES,
    }
    return {name: weight * factors.get(name, 1.0) for name, weight in weights.items()}


def _take(targets: Targets, rows: Tensor) -> Targets:
    return Targets(
        targets.image[rows], targets.boxes[rows], targets.labels[rows], targets.crowd[rows],
        targets.identities[rows],
    )  # fmt: skip


def _ravel(place: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Flat indices of multi-dimensional ones."""
    flat = place[0]
    for index, size in zip(place[1:], shape[1:], strict=True):
        flat = flat * size + index
    return flat
