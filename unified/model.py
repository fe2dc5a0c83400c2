"""The whole network: trunk → heads, each with its task's codes in its slots."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unified.slots import Slot
from unified.trunks.layers import ConvNormAct

Outputs = dict[str, dict[str, Tensor]]


class UnifiedModel(nn.Module):
    """F(x, θ, Z, Φ, Ψ) of YOLOR's equation 4.

    Args:
        trunk: publishes `features` and maps images to the pyramid.
        heads: task name → discriminator, in the order in which tasks run.
    """

    def __init__(self, trunk: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleDict(heads)

    def forward(self, images: Tensor) -> Outputs:
        """Run every task.

        Args:
            images: (B, 3, H, W), uint8 or float in [0, 1]; H and W multiples of 32.

        Returns:
            Task name → output name → tensor with channels on axis 1.
        """
        return self.discriminate(self.extract(images))

    def extract(self, images: Tensor) -> dict[str, Tensor]:
        """The explicit representation f_θ(x): level name → (B, C, H/stride, W/stride)."""
        if images.dtype == torch.uint8:
            images = images.to(next(self.parameters()).dtype) / 255
        features: dict[str, Tensor] = self.trunk(
            images.contiguous(memory_format=torch.channels_last)
        )
        return features

    def discriminate(self, features: Mapping[str, Tensor]) -> Outputs:
        """Every task's head on the same features."""
        return {task: head(features) for task, head in self.heads.items()}

    @torch.no_grad()
    def fuse(self) -> UnifiedModel:
        """Fold batch norms, and constant codes beside a linear layer, into weights.

        For inference only, in place. Returns self.
        """
        self.eval()
        for module in list(self.modules()):
            if isinstance(module, ConvNormAct):
                module.fuse()
            elif isinstance(module, Slot):
                module.fold()
        return self
