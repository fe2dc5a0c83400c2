"""What dense heads share: one branch per pyramid level, a 3×3 and a 1×1 convolution."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from unified.slots import Slot
from unified.trunks.features import FeatureSpec
from unified.trunks.layers import ConvNormAct


class DenseHead(nn.Module):
    """An output at every cell of every level: level → (B, outputs, H, W).

    Args:
        features: the trunk's pyramid.
        widths: level name → channels of its stem.
        outputs: channels of the output, the same on every level.
    """

    def __init__(self, features: FeatureSpec, widths: Mapping[str, int], outputs: int) -> None:
        super().__init__()
        self.levels = tuple(features)
        self.stems = nn.ModuleDict(
            {n: ConvNormAct(features[n].channels, widths[n], 3) for n in self.levels}
        )
        self.predictors = nn.ModuleDict({n: nn.Conv2d(widths[n], outputs, 1) for n in self.levels})
        self.align = nn.ModuleDict(
            {n: Slot(widths[n], before=[self.predictors[n]]) for n in self.levels}
        )
        self.refine = nn.ModuleDict(
            {n: Slot(outputs, after=self.predictors[n]) for n in self.levels}
        )

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self._level(name, features[name]) for name in self.levels}

    def _level(self, name: str, feature: Tensor) -> Tensor:
        stem = self.align[name](self.stems[name](feature))
        out: Tensor = self.refine[name](self.predictors[name](stem))
        return out
