"""What dense heads share: one branch per pyramid level, a 3×3 and a 1×1 convolution."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from unified.protocols import Head
from unified.specs import FeatureSpec
from unified.trunks.layers import ConvNormAct


class DenseHead(Head):
    """An output at every cell of every level: level → (B, outputs, H, W).

    Args:
        features: the trunk's pyramid.
        widths: level name → channels of its stem.
        outputs: channels of the output, the same on every level.
    """

    def __init__(self, features: FeatureSpec, widths: Mapping[str, int], outputs: int) -> None:
        super().__init__()
        self.levels = tuple(features)
        self.stem_widths = dict(widths)
        self.output_widths = dict.fromkeys(self.levels, outputs)
        self.stems = nn.ModuleDict(
            {n: ConvNormAct(features[n].channels, widths[n], 3) for n in self.levels}
        )
        self.predictors = nn.ModuleDict({n: nn.Conv2d(widths[n], outputs, 1) for n in self.levels})

    @property
    def links(self) -> dict[str, tuple[str, nn.Module]]:
        return {name: (name, self.predictors[name]) for name in self.levels}

    def stem(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.stems[name](features[name]) for name in self.levels}

    def predict(self, stems: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.predictors[name](stems[name]) for name in self.levels}
