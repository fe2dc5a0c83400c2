"""Anchor-based one-stage detector head, one branch per pyramid level."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unified.protocols import Head
from unified.specs import FeatureSpec
from unified.trunks.layers import ConvNormAct


class DetectionHead(Head):
    """Per level: 3×3 convolution to `expansion` times the width, then a 1×1 convolution.

    Outputs, per level: (B, A·(5 + classes), H, W), for each anchor the four box numbers, the
    objectness and the class logits.

    Attributes:
        anchors: (levels, A, 2) widths and heights in input pixels, finest level first.
    """

    anchors: Tensor

    def __init__(
        self, features: FeatureSpec, classes: int, anchors: Tensor, expansion: float = 2.0
    ) -> None:
        super().__init__()
        self.levels = tuple(features)
        self.strides = tuple(features[name].stride for name in self.levels)
        self.per_cell = anchors.shape[1]
        self.classes = classes
        width = self.per_cell * (5 + classes)
        self.stem_widths = {n: int(features[n].channels * expansion) for n in self.levels}
        self.output_widths = dict.fromkeys(self.levels, width)
        self.stems = nn.ModuleDict(
            {n: ConvNormAct(features[n].channels, self.stem_widths[n], 3) for n in self.levels}
        )
        self.predictors = nn.ModuleDict(
            {n: nn.Conv2d(self.stem_widths[n], width, 1) for n in self.levels}
        )
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

    @property
    def links(self) -> dict[str, tuple[str, nn.Module]]:
        return {name: (name, self.predictors[name]) for name in self.levels}

    def stem(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.stems[name](features[name]) for name in self.levels}

    def predict(self, stems: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.predictors[name](stems[name]) for name in self.levels}
