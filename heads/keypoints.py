"""Joints at every anchor, and where they are from every cell."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from heads.dense import DenseHead
from unified.ops.dense import per_anchor
from unified.trunks.features import FeatureSpec


class KeypointHead(DenseHead):
    """Level → (B, A·(K·3 + 1) + K·2, H, W): K joints and a quality at every anchor, and a field.

    A joint is x, y and the logit of whether it is known, the quality a logit of how similar all of
    them are to those that are there. The field of a joint says at every cell how far the joint of
    whoever is there lies from it.

    Args:
        features: the trunk's pyramid.
        per_cell: anchors A per cell.
        joints: K.
        width: channels of the stems.

    Attributes:
        strides: level name → input pixels per cell.
    """

    def __init__(self, features: FeatureSpec, per_cell: int, joints: int, width: int) -> None:
        self.per_cell, self.joints = per_cell, joints
        self.at_anchors = per_cell * (joints * 3 + 1)
        super().__init__(features, dict.fromkeys(features, width), self.at_anchors + joints * 2)
        self.strides = {name: features[name].stride for name in self.levels}

    def of_anchors(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Level → (B, A, H, W, K·3 + 1)."""
        own = {name: outputs[name][:, : self.at_anchors] for name in self.levels}
        return {name: per_anchor(output, self.per_cell) for name, output in own.items()}

    def fields(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Level → (B, K, 2, H, W), x and y in cells."""
        fields = {name: outputs[name][:, self.at_anchors :] for name in self.levels}
        return {name: field.unflatten(1, (self.joints, 2)) for name, field in fields.items()}
