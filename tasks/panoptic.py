"""Panoptic segmentation: every pixel's class, and which object it belongs to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from heads.semantic import SemanticHead
from unified.batch import Batch
from unified.bounds import Count, Name, NonNegative, Share
from unified.errors import DataError
from unified.kinds.kind import STRONG, Categories, Source
from unified.kinds.objects import ObjectAsk
from unified.kinds.pixels import OTHER, PixelAsk, PixelTargets
from unified.kinds.segments import PanopticSegments, SegmentAsk, SegmentSpace
from unified.ops.boxes import to_original
from unified.ops.dense import Kept
from unified.ops.masks import MaskParts
from unified.ops.panoptic import fuse_segments
from unified.ops.pixels import PixelLogits, PixelLoss, focus_of, segmentation_losses
from unified.task import DataSpec, Losses, Metric, Task, Upstream
from unified.trunks.features import FeatureSpec


class Panoptic(Task):
    """A pixel classifier over all things and stuff, fused with the instances.

    The stuff task has a vote: what it calls "other" is, by COCO-Stuff's protocol, a thing.

    Args:
        features, data: what trunk and data set publish.
        width: channels of the head's stem.
        loss_kind: `cross_entropy` or `focal`; dice is added with its own weight.
        gamma: of the focal loss.
        min_score: detections below this do not become segments.
        min_visible: share of its mask that an instance must keep from better ones and stuff.
        min_stuff: smallest stuff segment, as a share of the image.
        view: in which it learns.
        loss_weights: fixed weights of `pixel` and `dice`; 0 switches dice off.
    """

    name = "panoptic"
    requires = (Kept, MaskParts, PixelLogits)
    truth = SegmentAsk
    losses = ("pixel", "dice")

    things: Tensor
    class_of_object: Tensor

    def __init__(
        self,
        features: FeatureSpec,
        data: DataSpec,
        width: Count = 64,
        loss_kind: PixelLoss = "cross_entropy",
        gamma: NonNegative = 2.0,
        min_score: Share = 0.3,
        min_visible: Share = 0.5,
        min_stuff: Share = 0.005,
        view: Name = STRONG,
        loss_weights: Mapping[str, NonNegative] | None = None,
    ) -> None:
        super().__init__()
        space: SegmentSpace = data.space(SegmentAsk)
        self.head = SemanticHead(features, len(space), width)
        self.asks = (SegmentAsk(view, self.head.stride),)
        classes = _classes_of(data.space(ObjectAsk), space)
        self.register_buffer("things", torch.tensor(space.things), persistent=False)
        self.register_buffer("class_of_object", classes, persistent=False)
        names = data.space(PixelAsk).names
        self.other = names.index(OTHER) if OTHER in names else None
        self.gamma = focus_of(loss_kind, gamma)
        self.min_score, self.min_visible, self.min_stuff = min_score, min_visible, min_stuff
        self.loss_weights = dict(loss_weights or {})

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> tuple[Losses, None]:
        """Pixel loss and dice; reads classes (B, s, s) of the targets `segments`."""
        targets: PixelTargets = batch.labels["segments"]  # type: ignore[assignment]
        return segmentation_losses(outputs["logits"], targets.classes, self.gamma), None

    def keep(self, outputs: Mapping[str, Tensor], upstream: Upstream) -> Tensor:
        """(B, C, h, w) log probabilities; thing or stuff is decided with the stuff task."""
        own = outputs["logits"].float().log_softmax(1)
        if self.other is None:
            return own
        votes = upstream[PixelLogits].logits.float().log_softmax(1)
        thing = votes[:, self.other : self.other + 1]
        ground = torch.cat([votes[:, : self.other], votes[:, self.other + 1 :]], 1).logsumexp(
            1, keepdim=True
        )
        return own + torch.where(self.things[:, None, None], thing, ground)

    def finish(self, kept: Tensor, batch: Batch, upstream: Upstream) -> list[PanopticSegments]:
        """Segments of every image, at its original size."""
        found, masks = upstream[Kept], upstream[MaskParts]
        results = []
        for index, meta in enumerate(batch.metas):
            sure = (found.cells.image == index) & (found.scores >= self.min_score)
            rows = sure.nonzero().squeeze(1)
            segments, labels, instance = fuse_segments(
                kept[index], masks.logits(index, rows), to_original(found.boxes[rows], meta),
                self.class_of_object[found.labels[rows]], self.things,
                self.head.stride, meta, self.min_visible, self.min_stuff,
            )  # fmt: skip
            scores = torch.cat([found.scores[rows], kept.new_ones(1)])[instance]
            results.append(PanopticSegments(segments, labels, scores))
        return results

    def metric(self, source: Source) -> Metric:
        from unified.metrics.panoptic import PanopticQuality

        return PanopticQuality(source)


def _classes_of(objects: Categories, panoptic: SegmentSpace) -> Tensor:
    """(T,) panoptic class index of every object category, which have the same ids."""
    things = {
        (category, name): index
        for index, (category, name, thing) in enumerate(
            zip(panoptic.ids, panoptic.names, panoptic.things, strict=True)
        )
        if thing
    }
    wanted = list(zip(objects.ids, objects.names, strict=True))
    missing = [f"{key[1]} ({key[0]})" for key in wanted if key not in things]
    if missing:
        raise DataError(
            f"panoptic labels have no things like the instance categories {', '.join(missing[:5])}",
            "use the same ids and names in instances_<split>.json and panoptic_<split>.json",
        )
    return torch.tensor([things[key] for key in wanted])
