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
    """Level → (B, rank + A + 4·own, H, W): a vector, qualities of A boxes, own anchors' boxes.

    Maps of all categories are never made: logits are products of the vectors that matter with those
    of the categories that matter. In the forward pass the number of categories costs nothing; what
    it costs is in decoding.

    Args:
        features: the trunk's pyramid.
        classes: number of categories.
        width: channels of the stems.
        rank: length of the vectors.
        per_cell: anchors A per cell that boxes come from.
        anchors: (levels, own, 2) in input pixels; none are its own where the boxes are another
            task's.

    Attributes:
        categories: linear layer, `rank` to `classes`.
    """

    anchors: Tensor

    def __init__(
        self,
        features: FeatureSpec,
        classes: int,
        width: int,
        rank: int,
        per_cell: int,
        anchors: Tensor,
    ) -> None:
        outputs = rank + per_cell + 4 * anchors.shape[1]
        super().__init__(features, dict.fromkeys(features, width), outputs)
        self.rank, self.per_cell = rank, per_cell
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

    def qualities(self, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Per level (B, A, H, W), logits of how well each anchor's box fits what is there."""
        return [outputs[name][:, self.rank :][:, : self.per_cell] for name in self.levels]

    def boxes(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Level → (B, A, H, W, 4), of its own anchors."""
        first = self.rank + self.per_cell
        return {name: per_anchor(outputs[name][:, first:], self.per_cell) for name in self.levels}

    def of(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (…, rank) and biases (…) of categories."""
        return self.categories.weight[labels], self.categories.bias[labels]
