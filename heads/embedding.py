"""Dense embedding branch: a vector at every cell of the finest pyramid level."""

from __future__ import annotations

from torch import nn

from heads.dense import DenseHead
from unified.trunks.features import FeatureSpec


class EmbeddingHead(DenseHead):
    """The finest level → (B, dim, H, W), not yet normalised.

    Attributes:
        level: its name.
    """

    def __init__(self, features: FeatureSpec, width: int, dim: int) -> None:
        finest = next(iter(features))
        super().__init__({finest: features[finest]}, {finest: width}, dim)
        self.level = finest
        # Outputs of the size of the features: codes of spread 0.02 are small beside them.
        nn.init.normal_(self.predictors[self.level].weight, std=(2 / width) ** 0.5)
