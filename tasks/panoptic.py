"""Panoptic segmentation: every pixel's class, and which object it belongs to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from heads.semantic import SemanticHead
from unified.data.coco import CocoSplit
from unified.data.derive import OTHER
from unified.errors import DataError
from unified.metrics.panoptic import PanopticQuality
from unified.ops.panoptic import fuse_segments
from unified.ops.pixels import focus_of, segmentation_losses
from unified.specs import (
    Batch,
    DataSpec,
    Detections,
    FeatureSpec,
    LabelSpace,
    MaskLogits,
    PanopticSegments,
    PixelLogits,
    Upstream,
)


class Panoptic:
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
        loss_weights: fixed weights of `pixel` and `dice`; 0 switches dice off.
    """

    name = "panoptic"
    requires = ("instance", "stuff")

    def __init__(
        self,
        features: FeatureSpec,
        data: DataSpec,
        width: int = 64,
        loss_kind: str = "cross_entropy",
        gamma: float = 2.0,
        min_score: float = 0.3,
        min_visible: float = 0.5,
        min_stuff: float = 0.005,
        loss_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.labels = data.labels_for(self.name, "panoptic")
        self.head = SemanticHead(features, len(self.labels), width)
        self.maps = {"panoptic": self.head.stride}
        self.things = torch.tensor(self.labels.things)
        self.class_of_instance = _classes_of(data.labels["instances"], self.labels)
        names = data.labels["stuff"].names
        self.other = names.index(OTHER) if OTHER in names else None
        self.gamma = focus_of(loss_kind, gamma)
        self.min_score, self.min_visible, self.min_stuff = min_score, min_visible, min_stuff
        self.loss_weights = dict(loss_weights or {})

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> dict[str, Tensor]:
        """Pixel loss and dice over the pixels of segments that are no crowd."""
        return segmentation_losses(outputs, batch.maps.get("panoptic"), self.gamma)

    def decode(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> list[PanopticSegments]:
        """Segments of every image, at its original size."""
        masks: MaskLogits = upstream["instance"]
        logits = self._pixel_logits(outputs["logits"], upstream["stuff"])
        device = logits.device
        things, class_of = self.things.to(device), self.class_of_instance.to(device)
        results = []
        for index, meta in enumerate(batch.metas):
            found = masks.found[index]
            sure = found.scores >= self.min_score
            own = Detections(found.boxes[sure], found.scores[sure], class_of[found.labels[sure]])
            results.append(
                fuse_segments(
                    logits[index], masks.images[index][sure].float(), own, things,
                    self.head.stride, meta, self.min_visible, self.min_stuff,
                )
            )  # fmt: skip
        return results

    def _pixel_logits(self, logits: Tensor, stuff: PixelLogits) -> Tensor:
        """(B, C, h, w) log probabilities; thing or stuff is decided with the stuff task."""
        own = logits.float().log_softmax(1)
        if self.other is None:
            return own
        votes = stuff.logits.float().log_softmax(1)
        thing = votes[:, self.other : self.other + 1]
        ground = torch.cat([votes[:, : self.other], votes[:, self.other + 1 :]], 1).logsumexp(
            1, keepdim=True
        )
        return own + torch.where(self.things.to(own.device)[:, None, None], thing, ground)

    def metric(self, truth: CocoSplit) -> PanopticQuality:
        return PanopticQuality(truth)


def _classes_of(instances: LabelSpace, panoptic: LabelSpace) -> Tensor:
    """(T,) panoptic class index of every instance category, which have the same ids."""
    things = {
        (category, name): index
        for index, (category, name, thing) in enumerate(
            zip(panoptic.ids, panoptic.names, panoptic.things, strict=True)
        )
        if thing
    }
    wanted = list(zip(instances.ids, instances.names, strict=True))
    missing = [f"{key[1]} ({key[0]})" for key in wanted if key not in things]
    if missing:
        raise DataError(
            f"panoptic labels have no things like the instance categories {', '.join(missing[:5])}",
            "use the same ids and names in instances_<split>.json and panoptic_<split>.json",
        )
    return torch.tensor([things[key] for key in wanted])
