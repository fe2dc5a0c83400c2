"""Multi-label classification: which of the categories are in the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from heads.classification import ClassificationHead
from unified.batch import Batch
from unified.bounds import Count, Name, NonNegative, Share
from unified.kinds.kind import STRONG
from unified.kinds.objects import ObjectAsk, ObjectSource, ObjectTargets
from unified.kinds.tags import Tags
from unified.ops.losses import asymmetric_loss
from unified.task import DataSpec, Losses, Mean, Metric, Task, Upstream
from unified.trunks.features import FeatureSpec


class Classification(Task):
    """One logit per category from the pooled pyramid.

    Args:
        features, data: what trunk and data set publish.
        width: channels per level before pooling.
        classifier: `codes` (inner products with class codes) or `linear`.
        dim: width of the projection in front of the class codes.
        loss_kind: `asymmetric` or `bce`.
        gamma_pos, gamma_neg, clip: of the asymmetric loss.
        view: in which it learns.
        loss_weights: fixed weight of `category`.
    """

    name = "classification"
    truth = ObjectAsk
    losses = ("category",)

    def __init__(
        self,
        features: FeatureSpec,
        data: DataSpec,
        width: Count = 64,
        classifier: Literal["codes", "linear"] = "codes",
        dim: Count = 128,
        loss_kind: Literal["asymmetric", "bce"] = "asymmetric",
        gamma_pos: NonNegative = 0.0,
        gamma_neg: NonNegative = 2.0,
        clip: Share = 0.05,
        view: Name = STRONG,
        loss_weights: Mapping[str, NonNegative] | None = None,
    ) -> None:
        super().__init__()
        self.asks = (ObjectAsk(view),)
        classes = len(data.space(ObjectAsk))
        self.head = ClassificationHead(features, classes, width, classifier, dim)
        self.loss_kind = loss_kind
        self.gamma_pos, self.gamma_neg, self.clip = gamma_pos, gamma_neg, clip
        self.loss_weights = dict(loss_weights or {})

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> tuple[Losses, None]:
        """Sum over categories, mean over images; reads labels (M,) of the targets `objects`."""
        targets: ObjectTargets = batch.labels["objects"]  # type: ignore[assignment]
        logits = outputs["logits"].float()
        present = presence(targets, logits.shape[1])
        if self.loss_kind == "bce":
            losses = F.binary_cross_entropy_with_logits(logits, present, reduction="none")
        else:
            losses = asymmetric_loss(logits, present, self.gamma_pos, self.gamma_neg, self.clip)
        known = targets.known.float()
        return {"category": Mean((losses.sum(1) * known).sum(), known.sum())}, None

    def keep(self, outputs: Mapping[str, Tensor], upstream: Upstream) -> Tensor:
        """(B, C) probabilities."""
        return outputs["logits"].float().sigmoid()

    def finish(self, kept: Tensor, batch: Batch, upstream: Upstream) -> list[Tags]:
        return [Tags(scores) for scores in kept]

    def metric(self, source: ObjectSource) -> Metric:
        from unified.metrics.multilabel import MultilabelScores

        return MultilabelScores(source)


def presence(targets: ObjectTargets, classes: int) -> Tensor:
    """(B, classes) float 1 where at least one object, crowds included, is in view."""
    present = torch.zeros(len(targets.known), classes, device=targets.labels.device)
    one = present.new_ones(())
    return present.index_put((targets.image, targets.labels), one)
