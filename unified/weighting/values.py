"""From losses as sums to their values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from unified.task import Losses

Values = dict[str, dict[str, Tensor]]
"""Task → loss name → scalar."""


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
