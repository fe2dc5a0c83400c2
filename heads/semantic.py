"""Semantic branch: class logits per pixel at half the stride of the finest level."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from heads.pixels import PixelStem
from unified.protocols import Head
from unified.specs import FeatureSpec


class SemanticHead(Head):
    """logits: (B, classes, H, W) at `stride` input pixels per output pixel."""

    def __init__(self, features: FeatureSpec, classes: int, width: int) -> None:
        super().__init__()
        self.stem_widths = {"pixels": width}
        self.output_widths = {"logits": classes}
        self.pixels = PixelStem(features, width)
        self.stride = self.pixels.stride
        self.classify = nn.Conv2d(width, classes, 1)

    @property
    def links(self) -> dict[str, tuple[str, nn.Module]]:
        return {"logits": ("pixels", self.classify)}

    def stem(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"pixels": self.pixels(features)}

    def predict(self, stems: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.classify(stems["pixels"])}
