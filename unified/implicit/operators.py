"""Operators ⋆: how a decoded code meets a feature."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Operator(nn.Module):
    """x ⋆ code, for a feature (B, C, …) and a code (C,) or one that broadcasts against it.

    Args:
        width: C.

    Attributes:
        neutral: the code that leaves every feature as it is, 0 or 1 in each channel.
    """

    neutral: float

    def __init__(self, width: int) -> None:
        super().__init__()

    def affine(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, shift) with x ⋆ code = scale·x + shift, scale (C,) or a (C, C) matrix."""
        raise TypeError(f"{type(self).__name__} must define affine")

    def flops(self, feature: Tensor) -> int:
        """Multiplications and additions for one feature."""
        return feature.numel()


class Add(Operator):
    """x + code: translates the feature space."""

    neutral = 0.0

    def forward(self, feature: Tensor, code: Tensor) -> Tensor:
        return feature + _over_channels(code, feature)

    def affine(self, code: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(code), code


class Mul(Operator):
    """x · code: scales the feature space."""

    neutral = 1.0

    def forward(self, feature: Tensor, code: Tensor) -> Tensor:
        return feature * _over_channels(code, feature)

    def affine(self, code: Tensor) -> tuple[Tensor, Tensor]:
        return code, torch.zeros_like(code)


class Concat(Operator):
    """[x; code] projected back to the width of x.

    The code is the same at every position, so its part of the 1×1 projection is a bias:
    nothing is ever concatenated in memory.
    """

    neutral = 0.0

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.feature_weight = nn.Parameter(torch.eye(width))
        self.code_weight = nn.Parameter(torch.empty(width, width).normal_(0.0, width**-0.5))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, feature: Tensor, code: Tensor) -> Tensor:
        weight, shift = self.affine(code)
        if feature.ndim == 2:
            return F.linear(feature, weight, shift)
        return F.conv2d(feature, weight[:, :, None, None], shift)

    def affine(self, code: Tensor) -> tuple[Tensor, Tensor]:
        return self.feature_weight, self.code_weight @ code + self.bias

    def flops(self, feature: Tensor) -> int:
        return 2 * feature.shape[1] * feature.numel()


def _over_channels(code: Tensor, feature: Tensor) -> Tensor:
    """(C,) shaped to broadcast along axis 1 of `feature`; other shapes broadcast already."""
    return code.view(1, -1, *([1] * (feature.ndim - 2))) if code.ndim == 1 else code


OPERATORS: dict[str, type[Operator]] = {"add": Add, "mul": Mul, "concat": Concat}
"""What `implicit.align` and `implicit.refine` may say."""
