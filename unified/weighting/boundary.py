"""Where what the tasks' heads send back enters the shared pyramid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unified.weighting.fixed import Features, FixedWeighting

Sent = Sequence[Sequence[Tensor | None]]
"""Of every task, for every level, the gradient; None where it sends nothing."""


class BoundaryWeighting(FixedWeighting):
    """Σ_T L_T, and at the boundary the gradient of every task times its factor of this step.

    A subclass says by `weigh` what the factors are. All that the tasks send is at hand there, so
    they cost no further backward pass. Heads learn from their own losses as they are, that of a
    task whose share is 0, too; what a loss sends through another task's head counts as the other's.

    Args:
        tasks: task name → its share w_T.
        scale: factor on everything.
    """

    def __init__(self, tasks: Mapping[str, float], scale: float = 1.0) -> None:
        super().__init__(tasks, scale)
        shares = torch.tensor(list(tasks.values()))
        self.share: Tensor
        self.register_buffer("share", shares, persistent=False)
        self.factor: Tensor
        self.register_buffer("factor", shares.clone())

    def weigh(self, sent: Sent) -> None:
        """From what tasks send, all in the same order, to `factor` (N,)."""
        raise TypeError(f"{type(self).__name__} must define weigh")

    def enter(self, features: Features) -> dict[str, Features]:
        names, levels = list(self.tasks), list(features)
        own = _Boundary.apply(self._weighed, len(names), *features.values())  # type: ignore[no-untyped-call]
        parts = [own[first : first + len(levels)] for first in range(0, len(own), len(levels))]
        return {n: dict(zip(levels, p, strict=True)) for n, p in zip(names, parts, strict=True)}

    @torch.no_grad()
    def _weighed(self, sent: Sent) -> Tensor:
        self.weigh(sent)
        return self.factor

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        return self.scale * torch.stack(list(losses.values())).sum()

    def factors(self) -> dict[str, float]:
        return {n: self.scale * float(f) for n, f in zip(self.tasks, self.factor, strict=True)}


class _Boundary(torch.autograd.Function):
    """The levels once for every task; backward, their gradients times factors, added."""

    @staticmethod
    def forward(
        ctx: Any, weigh: Callable[[Sent], Tensor], tasks: int, *levels: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.weigh, ctx.levels = weigh, len(levels)
        ctx.set_materialize_grads(False)
        return tuple(level.view_as(level) for _ in range(tasks) for level in levels)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        starts = range(0, len(gradients), ctx.levels)
        sent = [gradients[start : start + ctx.levels] for start in starts]
        factors = ctx.weigh(sent)
        return (None, None, *(_joined(level, factors) for level in zip(*sent, strict=True)))


def _joined(gradients: Sequence[Tensor | None], factors: Tensor) -> Tensor | None:
    """Σ of those that are there, each times its factor."""
    total = None
    for gradient, factor in zip(gradients, factors, strict=True):
        if gradient is not None:
            part = gradient * factor.to(gradient.dtype)
            total = part if total is None else total.add_(part)
    return total
