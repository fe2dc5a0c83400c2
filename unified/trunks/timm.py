"""Any timm backbone that publishes strides 8, 16 and 32, with the CSP neck on top."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

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

    Raises:
        ConfigError: the name is unknown, or the backbone lacks one of the strides 8, 16, 32.
    """

    def __init__(
        self, name: str, pretrained: bool = False, width: int = 128, neck_depth: int = 2
    ) -> None:
        super().__init__()
        if not timm.is_model(name):
            close = ", ".join(timm.list_models(f"*{name[:6]}*")[:5]) or "resnet50, convnext_tiny"
            raise ConfigError(f"trunk.name={name}: timm has no such model", f"for example: {close}")
        indices = _pyramid_indices(name)
        backbone: Any = timm.create_model(
            name, pretrained=pretrained, features_only=True, out_indices=indices
        )
        self.backbone: nn.Module = backbone
        config = timm.get_pretrained_cfg(name)
        mean, std = (config.mean, config.std) if config else ((0.5,) * 3, (0.5,) * 3)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.channels: list[int] = backbone.feature_info.channels()
        self.neck = CSPNeck(self.channels, [width, 2 * width, 4 * width], neck_depth)
        self.features = self.neck.features

    mean: Tensor
    std: Tensor

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.backbone((images - self.mean) / self.std)
        # Swin and its kin give (B, H, W, C).
        maps = [
            m if m.shape[1] == c else m.permute(0, 3, 1, 2)
            for m, c in zip(maps, self.channels, strict=True)
        ]
        pyramid: dict[str, Tensor] = self.neck(*maps)
        return pyramid


def _pyramid_indices(name: str) -> tuple[int, ...]:
    """Positions of the maps at strides 8, 16 and 32."""
    with torch.device("meta"):
        try:
            probe: Any = timm.create_model(name, features_only=True)
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
    return tuple(len(reductions) - 1 - reductions[::-1].index(s) for s in STRIDES)
