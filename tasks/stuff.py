"""Stuff segmentation: which kind of ground, or a thing, every pixel belongs to."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from heads.semantic import SemanticHead
from unified.data.coco import CocoSplit
from unified.metrics.semantic import SemanticScores
from unified.ops.pixels import classes_at_original, focus_of, segmentation_losses
from unified.specs import Batch, DataSpec, FeatureSpec, PixelClasses, PixelLogits, Upstream


class Stuff:
    """Pixel classification over the stuff categories and "other", after COCO-Stuff.

    Args:
        features, data: what trunk and data set publish.
        width: channels of the head's stem.
        loss_kind: `cross_entropy` or `focal`; dice is added with its own weight.
        gamma: of the focal loss.
        loss_weights: fixed weights of `pixel` and `dice`; 0 switches dice off.

    Publishes `PixelLogits` in decoding.
    """

    name = "stuff"
    requires: tuple[str, ...] = ()

    def __init__(
        self,
        features: FeatureSpec,
        data: DataSpec,
        width: int = 64,
        loss_kind: str = "cross_entropy",
        gamma: float = 2.0,
        loss_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.labels = data.labels_for(self.name, "stuff")
        self.head = SemanticHead(features, len(self.labels), width)
        self.maps = {"stuff": self.head.stride}
        self.gamma = focus_of(loss_kind, gamma)
        self.loss_weights = dict(loss_weights or {})

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> dict[str, Tensor]:
        """Pixel loss and dice over the labelled pixels of the batch."""
        return segmentation_losses(outputs, batch.maps.get("stuff"), self.gamma)

    def decode(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> list[PixelClasses]:
        """The best class of every original pixel."""
        upstream[self.name] = PixelLogits(outputs["logits"], self.head.stride, "stuff")
        return [
            PixelClasses(classes_at_original(logits, self.head.stride, meta), "stuff")
            for logits, meta in zip(outputs["logits"], batch.metas, strict=True)
        ]

    def metric(self, truth: CocoSplit) -> SemanticScores:
        return SemanticScores(truth, "stuff")
