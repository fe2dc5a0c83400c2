"""Gradients of equal size where they enter the pyramid."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from unified.weighting.fixed import Features, FixedWeighting


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
