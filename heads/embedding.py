"""Dense embedding branch: a vector at every cell of every pyramid level."""

from __future__ import annotations

from torch import nn

from heads.dense import DenseHead
from unified.specs import FeatureSpec


class EmbeddingHead(DenseHead):
    """Level → (B, dim, H, W), not yet normalised."""

    def __init__(self, features: FeatureSpec, width: int, dim: int) -> None:
        super().__init__(features, dict.fromkeys(features, width), dim)
        for predictor in self.predictors.values():
            # Outputs of the size of the features: codes of spread 0.02 are small beside them.
            nn.init.normal_(predictor.weight, std=(2 / width) ** 0.5)
