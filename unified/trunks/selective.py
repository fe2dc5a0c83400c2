"""Selective kernels: each channel chooses how far it sees."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unified.bounds import Count
from unified.trunks.layers import ConvNormAct


class SelectiveKernel(nn.Module):
    """x + γ · Σ a_k ⊙ conv_k(x) over kernels of 3×3 and 5×5 (Li et al., arXiv 1903.06586).

    (B, C, H, W) → the same shape. The a_k of each channel, which add up to 1, are decided by what
    all positions together hold. γ starts at zero.

    Args:
        width: C.
        reduction: C over the channels by which is decided, of which there are 8 at least.
        groups: of the convolutions, where these divide C; else one.
    """

    def __init__(self, width: int, reduction: Count = 16, groups: Count = 8) -> None:
        super().__init__()
        groups = groups if width % groups == 0 else 1
        self.branches = nn.ModuleList(
            ConvNormAct(width, width, kernel, groups=groups) for kernel in (3, 5)
        )
        squeezed = max(width // reduction, 8)
        self.squeeze = nn.Sequential(nn.Linear(width, squeezed), nn.SiLU())
        self.choose = nn.Linear(squeezed, 2 * width)
        self.gamma = nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        near, far = (branch(x) for branch in self.branches)
        whole = (near + far).mean((2, 3))  # B C
        choice = self.choose(self.squeeze(whole)).unflatten(1, (2, -1)).softmax(1)  # B 2 C
        first, second = choice[..., None, None].unbind(1)
        out: Tensor = x + self.gamma * (first * near + second * far)
        return out
