"""Operators ⋆: how a decoded code meets a feature."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import orthogonal


class Operator(nn.Module):
    """x ⋆ code, for a feature (B, C, …) and a code (C,) or one that broadcasts against it.

    Args:
        width: C.

    Attributes:
        neutral: the code that leaves every feature as it is, 0 or 1 in each channel.
        parts: numbers of the code per channel; it has `parts` times C.
    """

    neutral: float
    parts: int = 1

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


class Affine(Operator):
    """x · (1 + scale) + shift: scales and translates, by the two halves of the code."""

    neutral = 0.0
    parts = 2

    def forward(self, feature: Tensor, code: Tensor) -> Tensor:
        scale, shift = (_over_channels(half, feature) for half in _halves(code))
        return feature * (1 + scale) + shift

    def affine(self, code: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = _halves(code)
        return 1 + scale, shift

    def flops(self, feature: Tensor) -> int:
        return 2 * feature.numel()


class Rotate(Operator):
    """Q x + code: turns the feature space by an orthogonal matrix of the slot, then translates it.

    Q starts as the identity (Cayley map).
    """

    neutral = 0.0

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.turn = orthogonal(nn.Linear(width, width, bias=False), orthogonal_map="cayley")
        self.turn.weight = torch.eye(width)  # type: ignore[assignment]

    def forward(self, feature: Tensor, code: Tensor) -> Tensor:
        matrix, _ = self.affine(code)
        return _projected(feature, matrix) + _over_channels(code, feature)

    def affine(self, code: Tensor) -> tuple[Tensor, Tensor]:
        matrix = self.turn.weight
        assert isinstance(matrix, Tensor)
        return matrix, code

    def flops(self, feature: Tensor) -> int:
        width = feature.shape[1]
        return 2 * width * feature.numel() + 4 * width**3


class Concat(Operator):
    """[x; code] projected back to the width of x.

    Each has its part of the 1×1 projection: nothing is ever concatenated in memory.
    """

    neutral = 0.0

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.feature_weight = nn.Parameter(torch.eye(width))
        self.code_weight = nn.Parameter(torch.empty(width, width).normal_(0.0, width**-0.5))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, feature: Tensor, code: Tensor) -> Tensor:
        if code.ndim > 1:
            own = _projected(feature, self.feature_weight, self.bias)
            return own + _projected(code, self.code_weight)
        return _projected(feature, *self.affine(code))

    def affine(self, code: Tensor) -> tuple[Tensor, Tensor]:
        return self.feature_weight, self.code_weight @ code + self.bias

    def flops(self, feature: Tensor) -> int:
        return 2 * feature.shape[1] * feature.numel()


def _projected(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(B, C, …) times (D, C), at every position: (B, D, …)."""
    if x.ndim == 2:
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight[:, :, None, None], bias)


def _halves(code: Tensor) -> tuple[Tensor, Tensor]:
    first, second = code.chunk(2, 0 if code.ndim == 1 else 1)
    return first, second


def _over_channels(code: Tensor, feature: Tensor) -> Tensor:
    """(C,) shaped to broadcast along axis 1 of `feature`; other shapes broadcast already."""
    return code.view(1, -1, *([1] * (feature.ndim - 2))) if code.ndim == 1 else code


OPERATORS: dict[str, type[Operator]] = {
    "add": Add,
    "mul": Mul,
    "affine": Affine,
    "rotate": Rotate,
    "concat": Concat,
}
"""What `implicit.align` and `implicit.refine` may say."""
