"""How the tasks' losses become one loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unified.errors import ConfigError


@dataclass
class WeightingConfig:
    """Joint loss.

    Attributes:
        kind: `fixed`, or `uncertainty` (learned, Kendall et al. 2018).
        tasks: task name → factor on the whole task; 1 where not given.
        scale: factor on everything.
    """

    kind: str = "fixed"
    tasks: dict[str, Any] = field(default_factory=dict)
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("fixed", "uncertainty"):
            raise ConfigError(f"weighting.kind={self.kind} is unknown", "use fixed or uncertainty")


class FixedWeighting(nn.Module):
    """Σ_T w_T L_T."""

    def __init__(self, tasks: Mapping[str, float]) -> None:
        super().__init__()
        self.tasks = dict(tasks)

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Task name → scalar, to one scalar."""
        return torch.stack([self.tasks[name] * loss for name, loss in losses.items()]).sum()


class UncertaintyWeighting(FixedWeighting):
    """Σ_T w_T (exp(-s_T) L_T + s_T) with learned log variances s_T (Kendall et al. 2018, eq. 7)."""

    def __init__(self, tasks: Mapping[str, float]) -> None:
        super().__init__(tasks)
        self.log_variance = nn.ParameterDict({n: nn.Parameter(torch.zeros(())) for n in tasks})

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        return super().forward(
            {
                name: torch.exp(-self.log_variance[name]) * loss + self.log_variance[name]
                for name, loss in losses.items()
            }
        )


def build_weighting(config: WeightingConfig, tasks: list[str]) -> FixedWeighting:
    """The weighting of a run.

    Raises:
        ConfigError: a factor is given for a task that takes no part.
    """
    unknown = sorted(set(config.tasks) - set(tasks))
    if unknown:
        raise ConfigError(
            f"weighting.tasks.{unknown[0]}: no such task in this run", f"use {', '.join(tasks)}"
        )
    factors = {name: config.scale * float(config.tasks.get(name, 1.0)) for name in tasks}
    kind = UncertaintyWeighting if config.kind == "uncertainty" else FixedWeighting
    return kind(factors)


def task_total(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Named losses of one task to its scalar; a name without a weight counts once."""
    return torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()
