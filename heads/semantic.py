"""Semantic branch: class logits per pixel at half the stride of the finest level."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from heads.pixels import PixelStem
from unified.slots import Slot
from unified.trunks.features import FeatureSpec


class SemanticHead(nn.Module):
    """`logits`: (B, classes, H, W) at `stride` input pixels per output pixel."""

    def __init__(self, features: FeatureSpec, classes: int, width: int) -> None:
        super().__init__()
        self.pixels = PixelStem(features, width)
        self.stride = self.pixels.stride
        self.classify = nn.Conv2d(width, classes, 1)
        self.align = nn.ModuleDict({"pixels": Slot(width, before=[self.classify])})
        self.refine = nn.ModuleDict({"logits": Slot(classes, after=self.classify)})

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        pixels = self.align["pixels"](self.pixels(features))
        return {"logits": self.refine["logits"](self.classify(pixels))}
