"""Stuff segmentation: which kind of ground, or a thing, every pixel belongs to."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from heads.semantic import SemanticHead
from unified.batch import Batch
from unified.bounds import Count, Name, NonNegative
from unified.kinds.kind import STRONG, Source
from unified.kinds.pixels import PixelAsk, PixelClasses, PixelTargets
from unified.ops.pixels import (
    PixelLogits,
    PixelLoss,
    classes_at_original,
    focus_of,
    segmentation_losses,
)
from unified.task import DataSpec, Losses, Metric, Task, Upstream
from unified.trunks.features import FeatureSpec


class Stuff(Task):
    """Pixel classification over the stuff categories and "other", after COCO-Stuff.

    Args:
        features, data: what trunk and data set publish.
        width: channels of the head's stem.
        loss_kind: `cross_entropy` or `focal`; dice is added with its own weight.
        gamma: of the focal loss.
        view: in which it learns.
        loss_weights: fixed weights of `pixel` and `dice`; 0 switches dice off.

    Publishes `PixelLogits` in decoding.
    """

    name = "stuff"
    publishes = (PixelLogits,)
    truth = PixelAsk
    losses = ("pixel", "dice")

    def __init__(
        self,
        features: FeatureSpec,
        data: DataSpec,
        width: Count = 64,
        loss_kind: PixelLoss = "cross_entropy",
        gamma: NonNegative = 2.0,
        view: Name = STRONG,
        loss_weights: Mapping[str, NonNegative] | None = None,
    ) -> None:
        super().__init__()
        self.head = SemanticHead(features, len(data.space(PixelAsk)), width)
        self.asks = (PixelAsk(view, self.head.stride),)
        self.gamma = focus_of(loss_kind, gamma)
        self.loss_weights = dict(loss_weights or {})

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> tuple[Losses, None]:
        """Pixel loss and dice; reads classes (B, s, s) of the targets `pixels`."""
        targets: PixelTargets = batch.labels["pixels"]  # type: ignore[assignment]
        return segmentation_losses(outputs["logits"], targets.classes, self.gamma), None

    def keep(self, outputs: Mapping[str, Tensor], upstream: Upstream) -> PixelLogits:
        return PixelLogits(outputs["logits"], self.head.stride)

    def finish(self, kept: PixelLogits, batch: Batch, upstream: Upstream) -> list[PixelClasses]:
        """The best class of every original pixel."""
        return [
            PixelClasses(classes_at_original(logits, kept.stride, meta))
            for logits, meta in zip(kept.logits, batch.metas, strict=True)
        ]

    def metric(self, source: Source) -> Metric:
        from unified.metrics.semantic import SemanticScores

        return SemanticScores(source, "stuff.json")
