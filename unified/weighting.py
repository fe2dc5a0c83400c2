"""How the tasks' losses become one loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unified.bounds import NonNegative, Positive
from unified.errors import ConfigError
from unified.task import Losses

Values = dict[str, dict[str, Tensor]]
"""Task → loss name → scalar."""


@dataclass
class WeightingConfig:
    """Joint loss.

    Attributes:
        kind: `fixed`, or `uncertainty` (learned, Kendall et al. 2018).
        tasks: task name → factor on the whole task; 1 where not given.
        scale: factor on everything.
    """

    kind: Literal["fixed", "uncertainty"] = "fixed"
    tasks: dict[str, NonNegative] = field(default_factory=dict)
    scale: Positive = 1.0


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


def values_of(losses: Mapping[str, Losses]) -> tuple[Values, Values]:
    """The value of every loss: to learn from, and, without gradient, to look at.

    Counts are added over all processes before anything is divided. What this process learns from
    is its own total over that count, times the number of processes, because their gradients are
    averaged afterwards: so two processes are one with twice the batch. What is looked at is the
    value over all processes, the same in each.
    """
    means = {(task, name): mean for task, own in losses.items() for name, mean in own.items()}
    sizes = [mean.total.numel() for mean in means.values()]
    totals = torch.cat([mean.total.float().reshape(-1) for mean in means.values()])
    counts = torch.cat([mean.count.detach().float().reshape(-1) for mean in means.values()])
    sums, processes = torch.stack([totals.detach(), counts]), 1
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)
        processes = dist.get_world_size()
    count = sums[1].clamp(min=1)

    def named(entries: Tensor) -> Values:
        values: Values = {task: {} for task in losses}
        for (task, name), part in zip(means, torch.split(entries, sizes), strict=True):
            values[task][name] = part.sum()
        return values

    return named(totals * processes / count), named(sums[0] / count)
