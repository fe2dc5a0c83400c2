"""Instance masks by prototypes and coefficients (Bolya et al. 2019, YOLACT)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from heads.dense import DenseHead
from heads.pixels import PixelStem
from unified.slots import Slot
from unified.trunks.features import FeatureSpec


class InstanceHead(DenseHead):
    """Level → (B, A·P, H, W) coefficients, `prototypes` → (B, P, h, w).

    Args:
        features: the trunk's pyramid.
        per_cell: anchors A per cell.
        prototypes: P.
        width: channels of the stems.

    Attributes:
        stride: input pixels per prototype cell.
    """

    def __init__(self, features: FeatureSpec, per_cell: int, prototypes: int, width: int) -> None:
        super().__init__(features, dict.fromkeys(features, width), per_cell * prototypes)
        self.per_cell = per_cell
        self.pixels = PixelStem(features, width)
        self.stride = self.pixels.stride
        self.prototype = nn.Conv2d(width, prototypes, 1)
        self.align["prototypes"] = Slot(width, before=[self.prototype])
        self.refine["prototypes"] = Slot(prototypes, after=self.prototype)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        stem = self.align["prototypes"](self.pixels(features))
        prototypes = self.refine["prototypes"](self.prototype(stem))
        return super().forward(features) | {"prototypes": prototypes}
