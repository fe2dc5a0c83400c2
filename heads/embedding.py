"""Dense embedding branch: a vector at every cell of every pyramid level."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from unified.protocols import Head
from unified.specs import FeatureSpec
from unified.trunks.layers import ConvNormAct


class EmbeddingHead(Head):
    """Per level: 3×3 convolution to `width`, then a 1×1 convolution to `dim`.

    Outputs, per level: (B, dim, H, W), not yet normalised.
    """

    def __init__(self, features: FeatureSpec, width: int, dim: int) -> None:
        super().__init__()
        self.levels = tuple(features)
        self.stem_widths = dict.fromkeys(self.levels, width)
        self.output_widths = dict.fromkeys(self.levels, dim)
        self.stems = nn.ModuleDict(
            {n: ConvNormAct(features[n].channels, width, 3) for n in self.levels}
        )
        self.predictors = nn.ModuleDict({n: nn.Conv2d(width, dim, 1) for n in self.levels})
        for predictor in self.predictors.values():
            # Outputs of the size of the features: codes of spread 0.02 are small beside them.
            nn.init.normal_(predictor.weight, std=(2 / width) ** 0.5)

    @property
    def links(self) -> dict[str, tuple[str, nn.Module]]:
        return {name: (name, self.predictors[name]) for name in self.levels}

    def stem(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.stems[name](features[name]) for name in self.levels}

    def predict(self, stems: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.predictors[name](stems[name]) for name in self.levels}
