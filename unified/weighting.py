"""How the tasks' losses become one loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unified.bounds import NonNegative, Positive
from unified.errors import ConfigError
from unified.task import Losses

Features = Mapping[str, Tensor]
"""Level name → (B, C, H, W)."""
Values = dict[str, dict[str, Tensor]]
"""Task → loss name → scalar."""


@dataclass
class WeightingConfig:
    """Joint loss.

    Attributes:
        kind: `fixed`; `uncertainty` (learned, Kendall et al. 2018); or `balance`: of what reaches
            the shared pyramid, every task has its share, however loud its losses are.
        tasks: task name → factor on the whole task, or its share; 1 where not given.
        scale: factor on everything.
    """

    kind: Literal["fixed", "uncertainty", "balance"] = "fixed"
    tasks: dict[str, NonNegative] = field(default_factory=dict)
    scale: Positive = 1.0


class FixedWeighting(nn.Module):
    """Σ_T w_T L_T."""

    def __init__(self, tasks: Mapping[str, float]) -> None:
        super().__init__()
        self.tasks = dict(tasks)

    def enter(self, task: str, features: Features) -> Features:
        """What a task reads of the pyramid."""
        return features

    def learn(self) -> None:
        """From the gradients of a step, before they are used."""

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Task name → scalar, to one scalar."""
        return torch.stack([self.tasks[name] * loss for name, loss in losses.items()]).sum()

    def scales(self) -> dict[str, Tensor | float]:
        """Task name → by what the trunk's gradient of its losses is multiplied now."""
        return dict(self.tasks)


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

    def scales(self) -> dict[str, Tensor | float]:
        found = {n: w * torch.exp(-self.log_variance[n].detach()) for n, w in self.tasks.items()}
        return dict(found)


class BalanceWeighting(FixedWeighting):
    """Σ_T L_T; gradients are scaled where they enter the pyramid, so that all norms are alike.

    A task's gradient on all levels is multiplied by w_T · N / n_T: n_T is the root of the running
    mean of its squared norm, and N = Σ w_U n_U / Σ w_U over the tasks that were heard, so that the
    order of magnitude stays. It costs a norm per task and level, and no further backward pass;
    heads learn from their own losses as they are. An optimiser that divides by the size of
    gradients, as AdamW does, lets the loudest task own the step otherwise.

    Args:
        tasks: task name → its share w_T.
        decay: of the running means.
    """

    def __init__(self, tasks: Mapping[str, float], decay: float = 0.99) -> None:
        super().__init__(tasks)
        self.decay = decay
        self.places = {name: place for place, name in enumerate(tasks)}
        self.share: Tensor
        self.register_buffer("share", torch.tensor(list(tasks.values())), persistent=False)
        self.register_buffer("mean", torch.zeros(len(tasks)))
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("scale", self.share.clone())
        self.register_buffer("seen", torch.zeros(len(tasks)), persistent=False)
        self.mean: Tensor
        self.steps: Tensor
        self.scale: Tensor
        self.seen: Tensor

    def enter(self, task: str, features: Features) -> Features:
        place, entered = self.places[task], {}
        for name, feature in features.items():
            own = feature.view_as(feature)  # what other tasks read stays as it is
            if own.requires_grad:
                own.register_hook(partial(self._scaled, place))  # type: ignore[no-untyped-call]
            entered[name] = own
        return entered

    def _scaled(self, place: int, gradient: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(gradient, dtype=torch.float32)
        self.seen[place] += norm.square()
        return gradient * self.scale[place].to(gradient.dtype)

    @torch.no_grad()
    def learn(self) -> None:
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.seen)
        # A step whose gradients overflow, or are none, teaches nothing.
        told = (self.seen.isfinite().all() & (self.seen > 0).any()).to(self.steps.dtype)
        self.mean.lerp_(self.seen.nan_to_num(0.0, 0.0), (1 - self.decay) * told)
        self.steps += told
        self.seen.zero_()
        norms = (self.mean / (1 - self.decay**self.steps).clamp(min=1e-12)).sqrt()
        heard = norms > 0
        common = (self.share * norms).sum() / (self.share * heard).sum().clamp(min=1e-12)
        self.scale.copy_(torch.where(heard, self.share * common / norms, self.share))

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        return torch.stack(list(losses.values())).sum()

    def scales(self) -> dict[str, Tensor | float]:
        return dict(zip(self.tasks, self.scale.unbind(), strict=True))


KINDS = {
    "fixed": FixedWeighting,
    "uncertainty": UncertaintyWeighting,
    "balance": BalanceWeighting,
}


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
    return KINDS[config.kind](factors)


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
