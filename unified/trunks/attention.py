"""Self-attention over the positions of a feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unified.bounds import Count
from unified.errors import ConfigError


class SelfAttention(nn.Module):
    """x + γ · W softmax(q kᵀ / √d) v over all positions (Vaswani et al., arXiv 1706.03762).

    (B, C, H, W) → the same shape. A 3×3 convolution of each channel of v, which is added, tells
    positions apart. γ starts at zero.

    Args:
        width: C.
        heads: into which the channels are divided.
    """

    def __init__(self, width: int, heads: Count = 4) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"{heads} heads do not divide a stage of {width} channels", "choose another number"
            )
        self.heads = heads
        self.norm = nn.GroupNorm(1, width)
        self.enter = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.near = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.leave = nn.Conv2d(width, width, 1)
        self.gamma = nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.enter(self.norm(x)).chunk(3, 1)
        # B C H W → B heads HW C/heads
        split = [t.reshape(b, self.heads, c // self.heads, h * w).mT for t in (q, k, v)]
        seen = F.scaled_dot_product_attention(*split).mT.reshape(b, c, h, w)
        out: Tensor = x + self.gamma * self.leave(seen + self.near(v))
        return out
