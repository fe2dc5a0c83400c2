"""The CSP neck: CSP-SPP on the coarsest map, then a path top-down and a path bottom-up.

Module order and concatenation order are those of the released YOLOR models, so that their weights
can be mapped layer by layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unified.trunks.features import Level
from unified.trunks.layers import ConvNormAct, plain_pairs

FINEST = 3
"""The finest level is `p3`, of stride 2³."""


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


class TopDown(nn.Module):
    """A step to the finer level: its backbone map, and the coarser result at twice the size."""

    def __init__(self, c_in: int, coarser: int, width: int, depth: int, activation: str) -> None:
        super().__init__()
        self.up = ConvNormAct(coarser, width, 1, activation=activation)
        self.lateral = ConvNormAct(c_in, width, 1, activation=activation)
        self.block = NeckBlock(2 * width, width, depth, activation)

    def forward(self, own: Tensor, coarser: Tensor) -> Tensor:
        up = F.interpolate(self.up(coarser), scale_factor=2.0, mode="nearest")
        out: Tensor = self.block(torch.cat([self.lateral(own), up], 1))
        return out


class BottomUp(nn.Module):
    """A step to the coarser level: the finer result at half the size, and what went down there."""

    def __init__(self, finer: int, width: int, depth: int, activation: str) -> None:
        super().__init__()
        self.down = ConvNormAct(finer, width, 3, 2, activation=activation)
        self.block = NeckBlock(2 * width, width, depth, activation)

    def forward(self, finer: Tensor, own: Tensor) -> Tensor:
        out: Tensor = self.block(torch.cat([self.down(finer), own], 1))
        return out


class CSPNeck(nn.Module):
    """Backbone maps, finest (stride 8) first, → pyramid p3, p4, …

    Args:
        c_in: channels of the backbone's maps, each of twice the stride of the one before.
        widths: channels of the pyramid, one per map.
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
        self.features = {
            f"p{level}": Level(width, 2**level) for level, width in enumerate(widths, FINEST)
        }
        names = list(self.features)
        self.spp = SpatialPyramidPooling(c_in[-1], widths[-1], spp_pairs, activation)
        coarser = pairwise(zip(names[::-1], c_in[::-1], widths[::-1], strict=True))
        self.top_down = nn.ModuleDict(
            {
                name: TopDown(channels, above, width, depth, activation)
                for (_, _, above), (name, channels, width) in coarser
            }
        )
        self.bottom_up = nn.ModuleDict(
            {
                name: BottomUp(below, width, depth, activation)
                for (_, below), (name, width) in pairwise(zip(names, widths, strict=True))
            }
        )

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        down = [self.spp(maps[-1])]
        for step, own in zip(self.top_down.values(), maps[-2::-1], strict=True):
            down.append(step(own, down[-1]))
        pyramid = [down.pop()]
        for step, own in zip(self.bottom_up.values(), down[::-1], strict=True):
            pyramid.append(step(pyramid[-1], own))
        return dict(zip(self.features, pyramid, strict=True))
