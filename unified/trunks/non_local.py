"""The non-local block: every position sees all others, in the form of an embedded Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NonLocal(nn.Module):
    """x + W softmax(θ(x) φ(x)ᵀ) g(x) (Wang et al., arXiv 1711.07971, equations 2, 3 and 6).

    (B, C, H, W) → the same shape. θ, φ, g and W are 1×1 convolutions of C/2 channels; φ and g are
    read from every second cell of every second row, the largest of four. W starts at zero.

    Args:
        width: C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = max(width // 2, 1)
        self.theta = nn.Conv2d(width, half, 1)
        self.phi = nn.Conv2d(width, half, 1)
        self.g = nn.Conv2d(width, half, 1)
        self.leave = nn.Conv2d(half, width, 1)
        nn.init.zeros_(self.leave.weight)
        self.leave.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        q = self.theta(x).flatten(2).mT  # B HW C/2
        k, v = (
            F.max_pool2d(layer(x), 2, ceil_mode=True).flatten(2).mT for layer in (self.phi, self.g)
        )
        seen = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        out: Tensor = x + self.leave(seen.mT.reshape(b, -1, h, w))
        return out
