"""Multi-label classification: which of the categories are in the image."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from heads.classification import ClassificationHead
from unified.data.coco import CocoSplit
from unified.errors import ConfigError
from unified.metrics.multilabel import MultilabelScores
from unified.ops.losses import asymmetric_loss, zero_of
from unified.specs import Batch, DataSpec, FeatureSpec, Tags, Targets, Upstream


class Classification:
    """One logit per category from the pooled pyramid.

    Args:
        features, data: what trunk and data set publish.
        width: channels per level before pooling.
        classifier: `codes` (inner products with class codes) or `linear`.
        dim: width of the projection in front of the class codes.
        loss_kind: `asymmetric` or `bce`.
        gamma_pos, gamma_neg, clip: of the asymmetric loss.
        loss_weights: fixed weight of `category`.
    """

    name = "classification"
    requires: tuple[str, ...] = ()

    def __init__(
        self,
        features: FeatureSpec,
        data: DataSpec,
        width: int = 64,
        classifier: str = "codes",
        dim: int = 128,
        loss_kind: str = "asymmetric",
        gamma_pos: float = 0.0,
        gamma_neg: float = 2.0,
        clip: float = 0.05,
        loss_weights: Mapping[str, float] | None = None,
    ) -> None:
        for key, value, choices in (
            ("classifier", classifier, ("codes", "linear")),
            ("loss_kind", loss_kind, ("asymmetric", "bce")),
        ):
            if value not in choices:
                raise ConfigError(
                    f"task.classification.{key}={value} is unknown", f"use {' or '.join(choices)}"
                )
        self.labels = data.labels_for(self.name, "instances")
        self.head = ClassificationHead(features, len(self.labels), width, classifier, dim)
        self.loss_kind = loss_kind
        self.gamma_pos, self.gamma_neg, self.clip = gamma_pos, gamma_neg, clip
        self.loss_weights = dict(loss_weights or {})

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> dict[str, Tensor]:
        """Mean over the images with labels, sum over categories."""
        logits = outputs["logits"].float()
        present = presence(batch.targets, len(logits), len(self.labels))
        if self.loss_kind == "bce":
            losses = F.binary_cross_entropy_with_logits(logits, present, reduction="none")
        else:
            losses = asymmetric_loss(logits, present, self.gamma_pos, self.gamma_neg, self.clip)
        labelled = batch.labelled.float()
        mean = (losses.sum(1) * labelled).sum() / labelled.sum().clamp(min=1)
        return {"category": mean + zero_of(outputs)}

    def decode(self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream) -> list[Tags]:
        return [Tags(scores) for scores in outputs["logits"].float().sigmoid()]

    def metric(self, truth: CocoSplit) -> MultilabelScores:
        truth.require("instances")
        return MultilabelScores(self.labels)


def presence(targets: Targets, images: int, classes: int) -> Tensor:
    """(images, classes) float 1 where at least one object, crowds included, is in view."""
    present = torch.zeros(images, classes, device=targets.labels.device)
    present[targets.image, targets.labels] = 1.0
    return present
