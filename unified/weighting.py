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
        kind: `fixed`; `uncertainty` (learned, Kendall et al. 2018); `dwa`: the more, the slower a
            task's loss falls (Liu et al. 2019); or `balance`: of what reaches the shared pyramid,
            every task has its share, however loud its losses are.
        tasks: task name → factor on the whole task, or its share; 1 where not given.
        scale: factor on everything.
    """

    kind: Literal["fixed", "uncertainty", "dwa", "balance"] = "fixed"
    tasks: dict[str, NonNegative] = field(default_factory=dict)
    scale: Positive = 1.0


class FixedWeighting(nn.Module):
    """Σ_T w_T L_T.

    Args:
        tasks: task name → w_T.
        scale: factor on everything.
    """

    def __init__(self, tasks: Mapping[str, float], scale: float = 1.0) -> None:
        super().__init__()
        self.tasks, self.scale = dict(tasks), scale

    def enter(self, task: str, features: Features) -> Features:
        """What a task reads of the pyramid."""
        return features

    def learn(self) -> None:
        """From the gradients of a step, before they are used."""

    def end_epoch(self, losses: Mapping[str, float]) -> None:
        """Learn from the epoch's mean of every task's loss."""

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Task name → scalar, to one scalar."""
        parts = [self.tasks[name] * loss for name, loss in losses.items()]
        return self.scale * torch.stack(parts).sum()

    def factors(self) -> dict[str, float]:
        """Task name → by what its loss's gradient on the trunk is multiplied now."""
        return {name: self.scale * weight for name, weight in self.tasks.items()}


class UncertaintyWeighting(FixedWeighting):
    """Σ_T w_T (exp(-s_T) L_T + s_T) with learned log variances s_T (Kendall et al. 2018, eq. 7)."""

    def __init__(self, tasks: Mapping[str, float], scale: float = 1.0) -> None:
        super().__init__(tasks, scale)
        self.log_variance = nn.ParameterDict({n: nn.Parameter(torch.zeros(())) for n in tasks})

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        return super().forward(
            {
                name: torch.exp(-self.log_variance[name]) * loss + self.log_variance[name]
                for name, loss in losses.items()
            }
        )

    def factors(self) -> dict[str, float]:
        fixed = super().factors()
        return {n: f * float(torch.exp(-self.log_variance[n].detach())) for n, f in fixed.items()}


class DwaWeighting(FixedWeighting):
    """Σ_T w_T λ_T L_T, dynamic weight average (Liu et al. 2019, MTAN, equation 7).

    λ_T = N softmax(r_T / `TEMPERATURE`) over the N tasks, where r_T is the task's mean loss of the
    last epoch over that of the one before, `MOST` at most; 1 in the first two epochs, and of a loss
    that is not positive in both, which says nothing of its speed.
    """

    TEMPERATURE, MOST = 2.0, 10.0

    def __init__(self, tasks: Mapping[str, float], scale: float = 1.0) -> None:
        super().__init__(tasks, scale)
        self.earlier: Tensor
        self.register_buffer("earlier", torch.zeros(len(tasks)))
        self.average: Tensor
        self.register_buffer("average", torch.ones(len(tasks)))

    def end_epoch(self, losses: Mapping[str, float]) -> None:
        last = torch.tensor([losses[name] for name in self.tasks], device=self.earlier.device)
        last = last.nan_to_num(0.0, 0.0, 0.0)
        ratio = torch.where((last > 0) & (self.earlier > 0), last / self.earlier, 1.0)
        ratio = ratio.clamp(max=self.MOST)
        self.average.copy_(len(ratio) * torch.softmax(ratio / self.TEMPERATURE, 0))
        self.earlier.copy_(last)

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        scaled = zip(self.tasks, self.average, strict=True)
        return super().forward({name: factor * losses[name] for name, factor in scaled})

    def factors(self) -> dict[str, float]:
        fixed, average = super().factors(), self.average.tolist()
        return {n: f * a for (n, f), a in zip(fixed.items(), average, strict=True)}


class BalanceWeighting(FixedWeighting):
    """Σ_T L_T; gradients are scaled where they enter the pyramid, so that all norms are alike.

    What a task's head sends back to all levels is multiplied by w_T · N / n_T: n_T is the root of
    the running mean of its squared norm, over the steps in which it sent anything, and
    N = Σ w_U n_U / Σ w_U over the tasks that have, so that the order of magnitude stays. It costs a
    norm per task and level, and no further backward pass. Heads learn from their own losses as they
    are, that of a task whose share is 0, too; what a loss sends through another task's head counts
    as the other's. An optimiser that divides by the size of gradients, as AdamW does, lets the
    loudest task own the step otherwise.

    Args:
        tasks: task name → its share w_T.
        scale: factor on everything.
        decay: of the running means.
    """

    def __init__(self, tasks: Mapping[str, float], scale: float = 1.0, decay: float = 0.99) -> None:
        super().__init__(tasks, scale)
        self.decay = decay
        self.places = {name: place for place, name in enumerate(tasks)}
        shares = torch.tensor(list(tasks.values()))
        self.share: Tensor
        self.register_buffer("share", shares, persistent=False)
        self.squares: Tensor
        self.register_buffer("squares", torch.zeros(len(tasks)), persistent=False)
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(len(tasks)))
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros(len(tasks)))
        self.factor: Tensor
        self.register_buffer("factor", shares.clone())

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
        self.squares[place] += norm.square()
        return gradient * self.factor[place].to(gradient.dtype)

    @torch.no_grad()
    def learn(self) -> None:
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.squares)
        # A task that sends nothing stays as it was; so do all in a step that overflows.
        heard = (self.squares > 0) & self.squares.isfinite().all()
        self.steps += heard
        weight = (1 / self.steps.clamp(min=1)).clamp(min=1 - self.decay)
        self.mean.lerp_(torch.where(heard, self.squares, self.mean), weight)
        self.squares.zero_()
        norms, known = self.mean.sqrt(), self.steps > 0
        common = (self.share * norms).sum() / (self.share * known).sum().clamp(min=1e-12)
        self.factor.copy_(torch.where(known, self.share * common / norms, self.share))

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        return self.scale * torch.stack(list(losses.values())).sum()

    def factors(self) -> dict[str, float]:
        return {n: self.scale * float(f) for n, f in zip(self.tasks, self.factor, strict=True)}


WEIGHTINGS = {
    "fixed": FixedWeighting,
    "uncertainty": UncertaintyWeighting,
    "dwa": DwaWeighting,
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
    own = {name: float(config.tasks.get(name, 1.0)) for name in tasks}
    return WEIGHTINGS[config.kind](own, float(config.scale))


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
