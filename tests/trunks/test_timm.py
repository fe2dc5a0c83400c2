"""timm backbones below the CSP neck."""

from __future__ import annotations

import pytest
import torch

from unified.errors import ConfigError
from unified.trunks.timm import TimmTrunk

pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet18", 64), ("convnext_atto", 64), ("swin_tiny_patch4_window7_224", 224)],
)
def test_backbones_deliver_the_pyramid(name: str, size: int) -> None:
    trunk = TimmTrunk(name, width=32, neck_depth=1).eval()
    with torch.no_grad():
        pyramid = trunk(torch.rand(1, 3, size, size))
    for level, spec in trunk.features.items():
        assert pyramid[level].shape == (1, spec.channels, size // spec.stride, size // spec.stride)


@pytest.mark.parametrize(
    ("name", "said"), [("resnet9000", "no such model"), ("vit_tiny_patch16_224", "strides")]
)
def test_unusable_backbones_are_refused(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TimmTrunk(name)
