"""The CSP family: one description, many models.

YOLOR-CSP is CSPDarknet53 with the CSP neck; its relatives differ in width, depth, the stem and the
number of levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor, nn

from unified.bounds import Count
from unified.classes import instantiate
from unified.errors import ConfigError
from unified.trunks.layers import ACTIVATIONS, ConvNormAct, Residual
from unified.trunks.neck import CSPNeck

Depth = Annotated[int, Meta(ge=0, le=100)]


class SpaceToDepth(nn.Module):
    """(B, C, H, W) → (B, 4·C, H/2, W/2): of each 2×2 pixels upper left, lower left, upper right,
    lower right."""

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return torch.cat(parts, 1)


class CSPStage(nn.Module):
    """Halve the resolution, split, n residuals on one part, merge: → (B, width, H/2, W/2)."""

    def __init__(
        self, c_in: int, width: int, depth: int, activation: str, transition: bool = True
    ) -> None:
        super().__init__()
        half = width // 2
        self.down = ConvNormAct(c_in, width, 3, 2, activation=activation)
        self.bypass = ConvNormAct(width, half, 1, activation=activation)
        self.enter = ConvNormAct(width, half, 1, activation=activation)
        self.process = nn.Sequential(*(Residual(half, half, activation) for _ in range(depth)))
        self.leave: nn.Module = nn.Identity()
        if transition:
            self.leave = ConvNormAct(half, half, 1, activation=activation)
        self.merge = ConvNormAct(width, width, 1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        bypass = self.bypass(x)
        processed = self.leave(self.process(self.enter(x)))
        out: Tensor = self.merge(torch.cat([processed, bypass], 1))
        return out


class CSPTrunk(nn.Module):
    """CSPDarknet backbone and CSP neck: (B, 3, H, W) in [0, 1] → pyramid at strides 8, 16, …

    Args:
        stem: channels of the first convolution.
        widths: channels of the stages, each of which halves the resolution; those of stride 8 and
            more feed the pyramid.
        depths: residuals per stage.
        neck_depth: convolution pairs per block of the neck.
        spp_pairs: additional convolution pairs after the SPP pools.
        activation: silu, mish or relu.
        space_to_depth: the stem reads 2×2 pixels as channels, and the first stage, at stride 4, is
            a CSP stage; otherwise the stem keeps the resolution, and the first stage, at stride 2,
            is plain residuals.
        transition: a 1×1 convolution stands between a CSP stage's residuals and its merge.
        blocks: stage (`stage1`, …) → `_target_` and arguments of what stands behind it, a module
            that keeps the shape and is built from the number of channels, `width`. Those of
            `conf/block` begin as the identity, so that a trained trunk is what it was.

    Raises:
        ConfigError: the description is not that of a trunk with a pyramid.
    """

    def __init__(
        self,
        stem: Count,
        widths: Sequence[Count],
        depths: Sequence[Depth],
        neck_depth: Depth,
        spp_pairs: Depth = 0,
        activation: str = "silu",
        space_to_depth: bool = False,
        transition: bool = True,
        blocks: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        a = activation
        first = 1 if space_to_depth else 2
        _check(widths, depths, first, a)
        self.stem = _stem(stem, space_to_depth, a)
        self.stages = nn.ModuleList()
        for c_in, width, depth in zip([stem, *widths[:-1]], widths, depths, strict=True):
            plain = not (space_to_depth or self.stages)
            own = (c_in, width, depth, a)
            self.stages.append(_plain_stage(*own) if plain else CSPStage(*own, transition))
        self.first = first
        seen = widths[first:]
        self.neck = CSPNeck(seen, [width // 2 for width in seen], neck_depth, spp_pairs, a)
        self.features = self.neck.features
        self.blocks = _blocks(blocks or {}, widths)  # last: all others start as without

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x, maps = self.stem(images), []
        for number, stage in enumerate(self.stages, 1):
            x = stage(x)
            if f"stage{number}" in self.blocks:
                x = self.blocks[f"stage{number}"](x)
            maps.append(x)
        pyramid: dict[str, Tensor] = self.neck(maps[self.first :])
        return pyramid


def _stem(width: int, space_to_depth: bool, activation: str) -> nn.Module:
    if space_to_depth:
        return nn.Sequential(SpaceToDepth(), ConvNormAct(12, width, 3, activation=activation))
    return ConvNormAct(3, width, 3, activation=activation)


def _plain_stage(c_in: int, width: int, depth: int, activation: str) -> nn.Module:
    """Halve the resolution, then residuals."""
    residuals = (Residual(width, width // 2, activation) for _ in range(depth))
    return nn.Sequential(ConvNormAct(c_in, width, 3, 2, activation=activation), *residuals)


def _blocks(blocks: Mapping[str, Mapping[str, Any]], widths: Sequence[int]) -> nn.ModuleDict:
    """Stage → what stands behind it."""
    stages = {f"stage{number}": width for number, width in enumerate(widths, 1)}
    for name in blocks:
        if name not in stages:
            raise ConfigError(
                f"trunk.blocks.{name}: the trunk has no such stage", f"use {', '.join(stages)}"
            )
    return nn.ModuleDict(
        {
            name: instantiate(f"trunk.blocks.{name}", nn.Module, blocks[name], width=width)
            for name, width in stages.items()
            if name in blocks
        }
    )


def _check(widths: Sequence[int], depths: Sequence[int], first: int, activation: str) -> None:
    """Refuse what is no trunk; `first` is the position of the stage at stride 8."""
    if len(widths) != len(depths) or len(widths) < first + 2:
        raise ConfigError(
            f"trunk.widths={list(widths)} trunk.depths={list(depths)}: a CSP trunk has a "
            f"width and a depth for each stage, and at least {first + 2} stages",
            "give as many numbers as conf/trunk/yolor_csp.yaml, or conf/trunk/yolor_p6.yaml",
        )
    if any(width % 2 for width in widths):
        raise ConfigError(
            f"trunk.widths={list(widths)}: a stage is split into two halves", "use even numbers"
        )
    if activation not in ACTIVATIONS:
        raise ConfigError(
            f"trunk.activation={activation} is unknown", f"use one of: {', '.join(ACTIVATIONS)}"
        )
