"""timm backbones below the CSP neck."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from unified.errors import ConfigError
from unified.trunks.timm import TimmTrunk

pytest.importorskip("timm")
SWIN = "swin_tiny_patch4_window7_224"


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 64),
        ("convnext_atto", 64),
        ("mobilenetv3_small_050", 64),
        (SWIN, 64),
        (SWIN, 224),
        (SWIN, 640),
    ],
)
def test_backbones_deliver_the_pyramid(name: str, size: int) -> None:
    """At any size that the network is made for, whatever the weights were trained at."""
    trunk = TimmTrunk(name, width=32, neck_depth=1, image_size=size).eval()
    with torch.no_grad():
        pyramid = trunk(torch.rand(1, 3, size, size))
    for level, spec in trunk.features.items():
        assert pyramid[level].shape == (1, spec.channels, size // spec.stride, size // spec.stride)


def test_the_configuration_tells_the_backbone_its_size(make: Callable) -> None:
    made = make("trunk=timm", f"trunk.name={SWIN}", "trunk.width=32", "data.image_size=96")
    assert made.model.trunk.backbone.patch_embed.img_size == (96, 96)
    made.model.trunk(torch.rand(1, 3, 96, 96))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet9000", "no such model"),
        ("vit_tiny_patch16_224", "strides"),
        ("efficientformer_l1", "cannot read inputs of 640 px"),
        ("halonet26t", "cannot read inputs of 640 px"),
    ],
)
def test_unusable_backbones_are_refused(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TimmTrunk(name)
