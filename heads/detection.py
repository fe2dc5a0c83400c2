"""Anchor-based one-stage detector head, one branch per pyramid level."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from heads.dense import DenseHead
from unified.trunks.features import FeatureSpec


class DetectionHead(DenseHead):
    """Level → (B, A·(5 + classes), H, W): per anchor four box numbers, objectness, class logits.

    The stem is `expansion` times as wide as the trunk's level.

    Attributes:
        anchors: (levels, A, 2) widths and heights in input pixels, finest level first.
    """

    anchors: Tensor

    def __init__(
        self, features: FeatureSpec, classes: int, anchors: Tensor, expansion: float = 2.0
    ) -> None:
        widths = {name: int(level.channels * expansion) for name, level in features.items()}
        super().__init__(features, widths, anchors.shape[1] * (5 + classes))
        self.per_cell, self.classes = anchors.shape[1], classes
        self.register_buffer("anchors", anchors.clone())
        self._start_from_priors()

    @torch.no_grad()
    def _start_from_priors(self) -> None:
        """Small weights; biases say that objects are rare and classes equally likely."""
        for predictor in self.predictors.values():
            nn.init.normal_(predictor.weight, std=0.01)
            bias = predictor.bias.view(self.per_cell, 5 + self.classes)
            bias.zero_()
            bias[:, 4] = -math.log(0.99 / 0.01)
            bias[:, 5:] = -math.log(max(self.classes - 1, 1))
