"""Long-tail recognition: objects of many categories, of which most are rare (LVIS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, complete_box_iou_loss

from heads.longtail import LongTailHead
from unified.batch import Batch
from unified.bounds import Count, Name, NonNegative, Positive, Ratio, Share
from unified.errors import ConfigError
from unified.kinds.federated import FederatedAsk, FederatedTargets, Recognitions
from unified.kinds.kind import STRONG
from unified.kinds.objects import ObjectSource
from unified.ops.anchors import initial_anchors
from unified.ops.balance import Balance
from unified.ops.boxes import to_original
from unified.ops.dense import Anchors, DenseBoxes
from unified.ops.federated import (
    best_overlaps,
    products_of_images,
    silent_cells,
    unique_pairs,
)
from unified.ops.losses import focal_gradient, focal_loss
from unified.ops.matching import match
from unified.task import DataSpec, Losses, Mean, Metric, Task, Upstream
from unified.trunks.features import FeatureSpec

CHUNK = 1024
"""Cells whose logits are made at once: 5 MB of 1,203 categories."""


@dataclass(frozen=True)
class Recognised:
    """What survived, flat over the batch, best first per image; all (K, …).

    Attributes:
        image: position in the batch.
        boxes: in input pixels.
        scores, labels: of the category.
    """

    image: Tensor
    boxes: Tensor
    scores: Tensor
    labels: Tensor


class LongTailRecognition(Task):
    """A vector per cell, compared with a vector per category, and boxes of no category.

    The boxes are detection's where it takes part, which then learns from these objects, too; else
    they are at anchors of its own. How well each of a cell's boxes fits is an output of its own,
    since detection knows that of its own categories only: the best is taken, and its quality is a
    factor of the score.

    Args:
        features, data, upstream: what trunk, data set and detection publish.
        width: channels of the head's stems.
        rank: length of the vectors.
        anchors: pixel sizes of its own anchors at 640 px, `[[[w, h], …] per level]`, or `auto`;
            `auto` where detection takes part.
        per_level: its own anchors per level.
        max_ratio: a box matches an anchor whose side ratios are all below this.
        gamma: focusing of the focal loss; 0 is cross-entropy.
        equalise: α of equalisation loss v2: how much more a category's positives weigh, and how
            much less its negatives, the more its negative gradients outweigh its positive ones; 0
            is the plain loss.
        min_score: candidates below are dropped before suppression.
        max_candidates: best candidates per image that enter suppression.
        nms_iou: overlap at which the lower-scored box of a category is suppressed.
        max_detections: kept per image; LVIS counts 300.
        view: in which it learns; must be that of detection where this takes part.
        loss_weights: fixed weights of category, box and quality.
    """

    name = "longtail"
    uses = (Anchors, DenseBoxes)
    truth = FederatedAsk
    measured = ("anchors",)
    losses = ("category", "box", "quality")

    def __init__(
        self,
        features: FeatureSpec,
        data: DataSpec,
        upstream: Upstream,
        width: Count = 128,
        rank: Count = 64,
        anchors: str | Sequence[Sequence[Sequence[Positive]]] = "auto",
        per_level: Count = 3,
        max_ratio: Ratio = 4.0,
        gamma: NonNegative = 0.0,
        equalise: NonNegative = 4.0,
        min_score: Share = 0.001,
        max_candidates: Count = 3000,
        nms_iou: Share = 0.6,
        max_detections: Count = 300,
        view: Name = STRONG,
        loss_weights: Mapping[str, NonNegative] | None = None,
    ) -> None:
        super().__init__()
        self.asks = (FederatedAsk(view),)
        classes = len(data.space(FederatedAsk))
        strides = torch.tensor([level.stride for level in features.values()], dtype=torch.float32)
        self.register_buffer("strides", strides, persistent=False)
        shared = upstream.get(Anchors)
        if shared is None:
            source: ObjectSource | None = data.source(FederatedAsk)  # type: ignore[assignment]
            own = initial_anchors(
                anchors, per_level, len(features), data.image_size / 640,
                source.sizes(data.image_size) if source else None, f"task.{self.name}",
            )  # fmt: skip
        elif anchors != "auto":
            raise ConfigError(
                f"task.{self.name}.anchors={anchors} is for boxes of its own, and beside detection "
                "they are detection's",
                f"set task.detection.anchors, or leave detection or task.{self.name}.anchors out",
            )
        else:
            own, per_level = torch.zeros(len(features), 0, 2), shared.per_cell
        self.head = LongTailHead(features, classes, width, rank, per_level, own)
        self.balance = Balance(classes)
        self.max_ratio, self.gamma, self.equalise = max_ratio, gamma, equalise
        self.min_score, self.max_candidates = min_score, max_candidates
        self.nms_iou, self.max_detections = nms_iou, max_detections
        self.loss_weights = dict(loss_weights or {})

    strides: Tensor

    def _boxes(self, outputs: Mapping[str, Tensor], upstream: Upstream) -> DenseBoxes:
        """Those of detection, or its own."""
        shared = upstream.get(DenseBoxes)
        return shared or DenseBoxes(self.head.boxes(outputs), self.head.anchors, self.strides)

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> tuple[Losses, None]:
        """Federated loss of the categories, CIoU of the boxes, and how well these fit.

        An object's category is positive at its matched cells. It is negative at all other cells of
        the images that are known to have no others of it; where an object matches no anchor, not
        within its box. Nothing else is learnt from (Gupta et al. 2019, section 3). Quality learns
        1 − CIoU loss of every box at the cells of objects, 0 where its anchor matches none. Reads
        boxes (M, 4), labels (M,) and complete (M,) of the targets `federated`.
        """
        truth: FederatedTargets = batch.labels["federated"]  # type: ignore[assignment]
        dense = self._boxes(outputs, upstream)
        cell, anchor, target, box_losses = self._match(truth, dense)
        vectors = torch.cat(self.head.vectors(outputs), 1).float()
        qualities = torch.cat([q.flatten(2) for q in self.head.qualities(outputs)], 2).float()
        once = unique_pairs(cell, target, vectors.shape[1])
        silent = silent_cells(truth, *once, dense)
        positive, denied = self._positives(vectors, truth, *once)
        negative, asserted = self._negatives(vectors, truth, *silent)
        more, less = self.balance.weights(self.equalise)
        category = (more * positive + less * negative).sum()
        if self.equalise:
            self.balance.add(more * denied, less * asserted)
        goal, held = best_overlaps(qualities, truth.image[target], anchor, cell, box_losses)
        missed = F.binary_cross_entropy_with_logits(qualities, goal, reduction="none") * held
        return {
            "category": Mean(category, category.new_full((), len(once[0]))),
            "box": Mean(box_losses.sum(), box_losses.new_full((), len(box_losses))),
            "quality": Mean(missed.sum(), held.sum()),
        }, None

    def _match(
        self, truth: FederatedTargets, dense: DenseBoxes
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(K,) cell among those of all levels, anchor, row of the targets, and CIoU loss."""
        matches = match(truth.boxes, truth.image, ~truth.complete, dense, self.max_ratio)
        cells, target = matches.cells, matches.target
        boxes = dense.decode(cells.gather(dense.raw), cells)
        losses = complete_box_iou_loss(boxes, truth.boxes[target])
        return cells.flat(dense.raw), cells.anchor, target, losses

    def _positives(
        self, vectors: Tensor, truth: FederatedTargets, cell: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of the categories of objects, at their cells; see `_sums`."""
        labels = truth.labels[target]
        weight, bias = self.head.of(labels)
        logits = (vectors[truth.image[target], cell] * weight).sum(1) + bias
        return self._sums(labels, logits[:, None], 1.0)

    def _negatives(
        self, vectors: Tensor, truth: FederatedTargets, rows: Tensor, inside: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of the categories that an image was searched for, at all cells without them.

        Args:
            vectors: (B, cells, R).
            truth: what is known.
            rows: (K,) of it that say which categories have no others.
            inside: (K, cells) where they do.
        """
        labels, image = truth.labels[rows], truth.image[rows]
        weight, bias = self.head.of(labels)
        logits = products_of_images(vectors, weight, image).float() + bias[:, None]
        return self._sums(labels, logits, 0.0, inside)

    def _sums(
        self, labels: Tensor, logits: Tensor, goal: float, counted: Tensor | float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """(C,) loss of each category, and (C,) size of its gradients in the logits.

        Args:
            labels: (K,).
            logits: (K, cells).
            goal: what they should say, 0 or 1.
            counted: (K, cells) where they count.
        """
        losses = focal_loss(logits, torch.full_like(logits, goal), self.gamma)
        sizes = focal_gradient((goal - logits.detach().sigmoid()).abs(), self.gamma)
        empty = losses.new_zeros(len(self.balance.positive))
        loss, size = (
            empty.index_add(0, labels, (part * counted).sum(1)) for part in (losses, sizes)
        )
        return loss, size

    def keep(self, outputs: Mapping[str, Tensor], upstream: Upstream) -> Recognised:
        """Best pairs of cell and category, non-maximum suppression per category."""
        dense = self._boxes(outputs, upstream)
        best = [quality.max(1) for quality in self.head.qualities(outputs)]
        boxes = [dense.per_cell(level, indices) for level, (_, indices) in enumerate(best)]
        every = (
            torch.cat(self.head.vectors(outputs), 1),
            torch.cat(boxes, 1),
            torch.cat([values.flatten(1) for values, _ in best], 1).float().sigmoid(),
        )
        found = [self._best(*image) for image in zip(*every, strict=True)]
        return Recognised(
            image=torch.cat([torch.full_like(f[2], i) for i, f in enumerate(found)]),
            boxes=torch.cat([f[0] for f in found]),
            scores=torch.cat([f[1] for f in found]),
            labels=torch.cat([f[2] for f in found]),
        )

    def _best(
        self, vectors: Tensor, boxes: Tensor, quality: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels of one image, best first."""
        scores, places = quality.new_zeros(0), quality.new_zeros(0, dtype=torch.long)
        weight, bias = self.head.categories.weight, self.head.categories.bias
        for start in range(0, len(vectors), CHUNK):
            own = slice(start, start + CHUNK)
            found = (F.linear(vectors[own], weight).float() + bias).sigmoid_()
            found *= quality[own, None]
            best, place = found.flatten().topk(min(self.max_candidates, found.numel()))
            every = torch.cat([scores, best])
            scores, order = every.topk(min(self.max_candidates, len(every)))
            places = torch.cat([places, place + start * len(weight)])[order]
        places, scores = places[scores > self.min_score], scores[scores > self.min_score]
        cell, labels = places // len(weight), places % len(weight)
        order = batched_nms(boxes[cell], scores, labels, self.nms_iou)[: self.max_detections]
        return boxes[cell][order], scores[order], labels[order]

    def finish(self, kept: Recognised, batch: Batch, upstream: Upstream) -> list[Recognitions]:
        """Boxes in original pixels."""
        results = []
        for index, meta in enumerate(batch.metas):
            own = kept.image == index
            boxes = to_original(kept.boxes[own], meta)
            results.append(Recognitions(boxes, kept.scores[own], kept.labels[own]))
        return results

    def metric(self, source: ObjectSource) -> Metric:
        from unified.metrics.lvis_ap import LvisAP

        return LvisAP(source)
