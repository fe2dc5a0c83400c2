"""Joints at every anchor."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from heads.dense import DenseHead
from unified.trunks.features import FeatureSpec


class KeypointHead(DenseHead):
    """Level → (B, A·K·3, H, W): x, y and probability of K joints at every anchor.

    Args:
        features: the trunk's pyramid.
        per_cell: anchors A per cell.
        joints: K.
        width: channels of the stems.

    Attributes:
        strides: level name → input pixels per cell.
    """

    def __init__(self, features: FeatureSpec, per_cell: int, joints: int, width: int) -> None:
        super().__init__(features, dict.fromkeys(features, width), per_cell * joints * 3)
        self.per_cell, self.joints = per_cell, joints
        self.strides = {name: features[name].stride for name in self.levels}

    def of_anchors(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Level → (B, A, K·3, H, W)."""
        return {name: outputs[name].unflatten(1, (self.per_cell, -1)) for name in self.levels}
