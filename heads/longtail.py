"""Many categories at every cell: a vector, whose products with the categories' are the logits."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from heads.dense import DenseHead
from unified.ops.dense import per_anchor
from unified.trunks.features import FeatureSpec

PRIOR = 0.01
"""Probability of every category at every cell, before anything is learnt."""


class LongTailHead(DenseHead):
    """Level → (B, rank + 4·A, H, W): a vector per cell, and boxes at A anchors of its own.

    Maps of all categories are never made: `logits` are products of the vectors that matter with
    those of the categories that matter. What a category costs in the forward pass is nothing.

    Args:
        features: the trunk's pyramid.
        classes: number of categories.
        width: channels of the stems.
        rank: length of the vectors.
        anchors: (levels, A, 2) in input pixels; A is 0 where the boxes are another task's.

    Attributes:
        categories: linear layer, `rank` to `classes`.
    """

    anchors: Tensor

    def __init__(
        self, features: FeatureSpec, classes: int, width: int, rank: int, anchors: Tensor
    ) -> None:
        super().__init__(features, dict.fromkeys(features, width), rank + 4 * anchors.shape[1])
        self.rank, self.per_cell = rank, anchors.shape[1]
        self.categories = nn.Linear(rank, classes)
        self.register_buffer("anchors", anchors.clone())
        self._start_from_priors()

    @torch.no_grad()
    def _start_from_priors(self) -> None:
        for predictor in self.predictors.values():
            # Vectors of the size of the features: codes of spread 0.02 are small beside them.
            nn.init.normal_(predictor.weight[: self.rank], std=(2 / predictor.in_channels) ** 0.5)
            nn.init.normal_(predictor.weight[self.rank :], std=0.01)
            predictor.bias.zero_()
        nn.init.normal_(self.categories.weight, std=self.rank**-0.5 / 4)
        nn.init.constant_(self.categories.bias, -math.log(1 / PRIOR - 1))

    def vectors(self, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Per level (B, H·W, rank)."""
        own = (outputs[name][:, : self.rank] for name in self.levels)
        return [output.flatten(2).transpose(1, 2) for output in own]

    def boxes(self, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Per level (B, A, H, W, 4)."""
        return [per_anchor(outputs[name][:, self.rank :], self.per_cell) for name in self.levels]

    def of(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (…, rank) and biases (…) of categories."""
        return self.categories.weight[labels], self.categories.bias[labels]
