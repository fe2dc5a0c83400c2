"""Dense embedding branch: a vector at every cell of one pyramid level."""

from __future__ import annotations

from torch import nn

from heads.dense import DenseHead
from unified.trunks.features import FeatureSpec


class EmbeddingHead(DenseHead):
    """One level → (B, dim, H, W), not yet normalised.

    Args:
        features: the trunk's pyramid.
        level: the name of the one that is read.
        width: channels of the stem.
        dim: length of the vectors.
    """

    def __init__(self, features: FeatureSpec, level: str, width: int, dim: int) -> None:
        super().__init__({level: features[level]}, {level: width}, dim)
        self.level = level
        # Outputs of the size of the features: codes of spread 0.02 are small beside them.
        nn.init.normal_(self.predictors[self.level].weight, std=(2 / width) ** 0.5)
