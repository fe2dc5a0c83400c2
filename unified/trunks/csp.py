"""The CSP family: one description, many models.

YOLOR-CSP is CSPDarknet53 with the CSP neck; its relatives differ in width and depth only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from unified.bounds import Count
from unified.errors import ConfigError
from unified.trunks.layers import ACTIVATIONS, ConvNormAct, Residual
from unified.trunks.neck import CSPNeck

Depth = Annotated[int, Meta(ge=0, le=100)]


class CSPStage(nn.Module):
    """Halve the resolution, split, n residuals on one part, merge: → (B, width, H/2, W/2)."""

    def __init__(self, c_in: int, width: int, depth: int, activation: str) -> None:
        super().__init__()
        half = width // 2
        self.down = ConvNormAct(c_in, width, 3, 2, activation=activation)
        self.bypass = ConvNormAct(width, half, 1, activation=activation)
        self.enter = ConvNormAct(width, half, 1, activation=activation)
        self.process = nn.Sequential(*(Residual(half, half, activation) for _ in range(depth)))
        self.leave = ConvNormAct(half, half, 1, activation=activation)
        self.merge = ConvNormAct(width, width, 1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        bypass = self.bypass(x)
        processed = self.leave(self.process(self.enter(x)))
        out: Tensor = self.merge(torch.cat([processed, bypass], 1))
        return out


class CSPTrunk(nn.Module):
    """CSPDarknet backbone and CSP neck: (B, 3, H, W) in [0, 1] → pyramid at strides 8, 16, 32.

    Args:
        stem: channels of the first convolution.
        widths: channels of the five stages, strides 2 to 32.
        depths: residuals per stage; the first stage is a plain residual, not a CSP split.
        neck_depth: convolution pairs per block of the neck.
        spp_pairs: additional convolution pairs after the SPP pools.
        activation: silu, mish or relu.

    Raises:
        ConfigError: the description is not that of a five-stage trunk.
    """

    def __init__(
        self,
        stem: Count,
        widths: Sequence[Count],
        depths: Sequence[Depth],
        neck_depth: Depth,
        spp_pairs: Depth = 0,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        if len(widths) != 5 or len(depths) != 5:
            raise ConfigError(
                f"trunk.widths={list(widths)} trunk.depths={list(depths)}: a CSP trunk has five "
                "stages",
                "give five numbers each, as in conf/trunk/yolor_csp.yaml",
            )
        if any(width % 2 for width in widths):
            raise ConfigError(
                f"trunk.widths={list(widths)}: a stage is split into two halves", "use even numbers"
            )
        if activation not in ACTIVATIONS:
            raise ConfigError(
                f"trunk.activation={activation} is unknown",
                f"use one of: {', '.join(ACTIVATIONS)}",
            )
        a = activation
        self.stem = ConvNormAct(3, stem, 3, activation=a)
        self.stage1 = nn.Sequential(
            ConvNormAct(stem, widths[0], 3, 2, activation=a),
            *(Residual(widths[0], widths[0] // 2, a) for _ in range(depths[0])),
        )
        self.stage2 = CSPStage(widths[0], widths[1], depths[1], a)
        self.stage3 = CSPStage(widths[1], widths[2], depths[2], a)
        self.stage4 = CSPStage(widths[2], widths[3], depths[3], a)
        self.stage5 = CSPStage(widths[3], widths[4], depths[4], a)
        self.neck = CSPNeck(
            widths[2:], [w // 2 for w in widths[2:]], neck_depth, spp_pairs, activation
        )
        self.features = self.neck.features

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        c3 = self.stage3(self.stage2(self.stage1(self.stem(images))))
        c4 = self.stage4(c3)
        c5 = self.stage5(c4)
        pyramid: dict[str, Tensor] = self.neck(c3, c4, c5)
        return pyramid
