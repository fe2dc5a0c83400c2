"""Fixed factors; and what every weighting does."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Features = Mapping[str, Tensor]
"""Level name → (B, C, H, W)."""


class FixedWeighting(nn.Module):
    """Σ_T w_T L_T.

    Args:
        tasks: task name → w_T.
        scale: factor on everything.
    """

    def __init__(self, tasks: Mapping[str, float], scale: float = 1.0) -> None:
        super().__init__()
        self.tasks, self.scale = dict(tasks), scale

    def enter(self, features: Features) -> dict[str, Features]:
        """Task name → what it reads of the pyramid."""
        return dict.fromkeys(self.tasks, features)

    def end_epoch(self, losses: Mapping[str, float]) -> None:
        """Learn from the epoch's mean of every task's loss."""

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Task name → scalar, to one scalar."""
        parts = [self.tasks[name] * loss for name, loss in losses.items()]
        return self.scale * torch.stack(parts).sum()

    def factors(self) -> dict[str, float]:
        """Task name → by what its loss's gradient on the trunk is multiplied now."""
        return {name: self.scale * weight for name, weight in self.tasks.items()}
