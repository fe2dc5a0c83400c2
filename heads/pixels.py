"""What pixel-wise branches share: the finest level, once more enlarged."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from unified.trunks.features import FeatureSpec
from unified.trunks.layers import ConvNormAct


class PixelStem(nn.Module):
    """Finest level → (B, width, H, W) at half its stride.

    That level already carries what the coarser ones know; one scale is enough.

    Attributes:
        stride: input pixels per output pixel.
    """

    def __init__(self, features: FeatureSpec, width: int) -> None:
        super().__init__()
        self.level, finest = next(iter(features.items()))
        self.stride = finest.stride // 2
        self.reduce = ConvNormAct(finest.channels, width, 3)
        self.smooth = ConvNormAct(width, width, 3)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        reduced = self.reduce(features[self.level])
        wide = F.interpolate(reduced, scale_factor=2.0, mode="bilinear", align_corners=False)
        smooth: Tensor = self.smooth(wide)
        return smooth
