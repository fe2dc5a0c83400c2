"""Any timm backbone that publishes strides 8, 16 and 32, with the CSP neck on top."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.layers.format import Format
from torch import Tensor, nn

from unified.bounds import Count, Name, Whole
from unified.errors import ConfigError
from unified.trunks.neck import CSPNeck

STRIDES = (8, 16, 32)


class TimmTrunk(nn.Module):
    """timm `features_only` backbone and CSP neck: (B, 3, H, W) in [0, 1] → pyramid.

    Args:
        name: timm model name, as `resnet50` or `convnext_tiny`.
        pretrained: let timm download its weights; off unless asked for.
        width: channels of the finest pyramid level; each coarser one doubles.
        neck_depth: convolution pairs per block of the neck.
        image_size: side of the inputs in pixels, for which backbones with windows or positions
            are made.

    Raises:
        ConfigError: the name is unknown, the backbone lacks one of the strides 8, 16, 32, or it
            cannot read inputs of that size.
    """

    def __init__(
        self,
        name: Name,
        pretrained: bool = False,
        width: Count = 128,
        neck_depth: Whole = 2,
        image_size: int = 640,
    ) -> None:
        super().__init__()
        if not timm.is_model(name):
            close = ", ".join(timm.list_models(f"*{name[:6]}*")[:5]) or "resnet50, convnext_tiny"
            raise ConfigError(f"trunk.name={name}: timm has no such model", f"for example: {close}")
        config = timm.get_pretrained_cfg(name)
        fixed: dict[str, Any] = (
            {"img_size": image_size} if config and config.fixed_input_size else {}
        )
        indices = _pyramid_indices(name, image_size, fixed)
        backbone: Any = timm.create_model(
            name, pretrained=pretrained, features_only=True, out_indices=indices, **fixed
        )
        self.backbone: nn.Module = backbone
        self.channels_last = _format_of(backbone) == Format.NHWC
        mean, std = (config.mean, config.std) if config else ((0.5,) * 3, (0.5,) * 3)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        channels: list[int] = backbone.feature_info.channels()
        self.neck = CSPNeck(channels, [width, 2 * width, 4 * width], neck_depth)
        self.features = self.neck.features

    mean: Tensor
    std: Tensor

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.backbone((images - self.mean) / self.std)
        if self.channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        pyramid: dict[str, Tensor] = self.neck(maps)
        return pyramid


def _pyramid_indices(name: str, size: int, fixed: Mapping[str, Any]) -> tuple[int, ...]:
    """Positions of the maps at strides 8, 16 and 32, from a backbone without memory."""
    with torch.device("meta"):
        try:
            probe: Any = timm.create_model(name, features_only=True, **fixed)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"trunk.name={name} cannot publish intermediate features: {error}",
                "choose a timm model that supports features_only, as resnet50",
            ) from error
    reductions: list[int] = probe.feature_info.reduction()
    if not set(STRIDES) <= set(reductions):
        raise ConfigError(
            f"trunk.name={name} has strides {sorted(set(reductions))}, the pyramid needs "
            f"{list(STRIDES)}",
            "choose a hierarchical backbone, as resnet50, convnext_tiny or "
            "swin_tiny_patch4_window7_224",
        )
    indices = tuple(len(reductions) - 1 - reductions[::-1].index(s) for s in STRIDES)
    try:
        maps = probe.eval()(torch.empty(1, 3, size, size, device="meta"))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigError(
            f"trunk.name={name} cannot read inputs of {size} px: {reason}",
            "choose a data.image_size that its windows divide, or a convolutional backbone, as "
            "convnext_tiny",
        ) from error
    axis = 1 if _format_of(probe) == Format.NHWC else 2
    sides = [maps[i].shape[axis] for i in indices]
    if sides != [size // stride for stride in STRIDES]:
        raise ConfigError(
            f"trunk.name={name} gives maps of {sides} cells for inputs of {size} px",
            "choose a data.image_size that is a multiple of 64, or another backbone, as resnet50",
        )
    return indices


def _format_of(backbone: Any) -> Format:
    """Axes of the maps; backbones that timm wraps by class publish none and keep (B, C, H, W)."""
    published: Format = getattr(backbone, "output_fmt", Format.NCHW)
    return published
