"""The CSP neck: CSP-SPP on the coarsest map, then a path top-down and a path bottom-up.

Module order and concatenation order are those of the released YOLOR-CSP, so that its weights
can be mapped layer by layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unified.trunks.features import Level
from unified.trunks.layers import ConvNormAct, plain_pairs


class SpatialPyramidPooling(nn.Module):
    """CSP-SPP: (B, C_in, H, W) → (B, width, H, W), three max-pools see 5, 9 and 13 cells."""

    def __init__(self, c_in: int, width: int, extra_pairs: int, activation: str) -> None:
        super().__init__()
        self.bypass = ConvNormAct(c_in, width, 1, activation=activation)
        self.before = nn.Sequential(
            ConvNormAct(c_in, width, 1, activation=activation),
            ConvNormAct(width, width, 3, activation=activation),
            ConvNormAct(width, width, 1, activation=activation),
        )
        self.after = nn.Sequential(
            ConvNormAct(4 * width, width, 1, activation=activation),
            ConvNormAct(width, width, 3, activation=activation),
            *plain_pairs(width, extra_pairs, activation),
        )
        self.merge = ConvNormAct(2 * width, width, 1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        # Three chained 5-pools see 5, 9 and 13 cells: the same maxima as three separate pools.
        pool5 = F.max_pool2d(y, 5, 1, 2)
        pool9 = F.max_pool2d(pool5, 5, 1, 2)
        pool13 = F.max_pool2d(pool9, 5, 1, 2)
        processed = self.after(torch.cat([pool13, pool9, pool5, y], 1))
        out: Tensor = self.merge(torch.cat([processed, self.bypass(x)], 1))
        return out


class NeckBlock(nn.Module):
    """CSP block of the neck: (B, C_in, H, W) → (B, width, H, W)."""

    def __init__(self, c_in: int, width: int, depth: int, activation: str) -> None:
        super().__init__()
        self.enter = ConvNormAct(c_in, width, 1, activation=activation)
        self.bypass = ConvNormAct(width, width, 1, activation=activation)
        self.process = plain_pairs(width, depth, activation)
        self.merge = ConvNormAct(2 * width, width, 1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        out: Tensor = self.merge(torch.cat([self.process(y), self.bypass(y)], 1))
        return out


class CSPNeck(nn.Module):
    """Backbone maps p3, p4, p5 → pyramid p3, p4, p5.

    Args:
        c_in: channels of the backbone's maps at strides 8, 16, 32.
        widths: channels of the pyramid.
        depth: (1×1, 3×3) pairs per block.
        spp_pairs: additional pairs after the pools of the CSP-SPP.
        activation: name of the activation.
    """

    def __init__(
        self,
        c_in: Sequence[int],
        widths: Sequence[int],
        depth: int = 2,
        spp_pairs: int = 0,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        (c3, c4, c5), (w3, w4, w5) = c_in, widths
        a = activation
        self.spp = SpatialPyramidPooling(c5, w5, spp_pairs, a)
        self.up4 = ConvNormAct(w5, w4, 1, activation=a)
        self.lateral4 = ConvNormAct(c4, w4, 1, activation=a)
        self.down_path4 = NeckBlock(2 * w4, w4, depth, a)
        self.up3 = ConvNormAct(w4, w3, 1, activation=a)
        self.lateral3 = ConvNormAct(c3, w3, 1, activation=a)
        self.down_path3 = NeckBlock(2 * w3, w3, depth, a)
        self.stride4 = ConvNormAct(w3, w4, 3, 2, activation=a)
        self.up_path4 = NeckBlock(2 * w4, w4, depth, a)
        self.stride5 = ConvNormAct(w4, w5, 3, 2, activation=a)
        self.up_path5 = NeckBlock(2 * w5, w5, depth, a)
        self.features = {"p3": Level(w3, 8), "p4": Level(w4, 16), "p5": Level(w5, 32)}

    def forward(self, p3: Tensor, p4: Tensor, p5: Tensor) -> dict[str, Tensor]:
        top5 = self.spp(p5)
        up = F.interpolate(self.up4(top5), scale_factor=2.0, mode="nearest")
        top4 = self.down_path4(torch.cat([self.lateral4(p4), up], 1))
        up = F.interpolate(self.up3(top4), scale_factor=2.0, mode="nearest")
        out3 = self.down_path3(torch.cat([self.lateral3(p3), up], 1))
        out4 = self.up_path4(torch.cat([self.stride4(out3), top4], 1))
        out5 = self.up_path5(torch.cat([self.stride5(out4), top5], 1))
        return {"p3": out3, "p4": out4, "p5": out5}
