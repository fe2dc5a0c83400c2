"""Semantic branch: class logits per pixel at half the stride of the finest level."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from unified.protocols import Head
from unified.specs import FeatureSpec
from unified.trunks.layers import ConvNormAct


class SemanticHead(Head):
    """logits: (B, classes, H, W) at `stride`.

    The finest level already carries what the coarser ones know; one scale is enough.

    Attributes:
        stride: input pixels per output pixel.
    """

    def __init__(self, features: FeatureSpec, classes: int, width: int) -> None:
        super().__init__()
        self.level, finest = next(iter(features.items()))
        self.stride = finest.stride // 2
        self.stem_widths = {"pixels": width}
        self.output_widths = {"logits": classes}
        self.reduce = ConvNormAct(finest.channels, width, 3)
        self.smooth = ConvNormAct(width, width, 3)
        self.classify = nn.Conv2d(width, classes, 1)

    @property
    def links(self) -> dict[str, tuple[str, nn.Module]]:
        return {"logits": ("pixels", self.classify)}

    def stem(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        reduced = self.reduce(features[self.level])
        wide = F.interpolate(reduced, scale_factor=2.0, mode="bilinear", align_corners=False)
        return {"pixels": self.smooth(wide)}

    def predict(self, stems: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.classify(stems["pixels"])}
