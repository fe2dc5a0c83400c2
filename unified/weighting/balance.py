"""Gradients of equal size where they enter the pyramid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from unified.weighting.boundary import BoundaryWeighting, Sent


class BalanceWeighting(BoundaryWeighting):
    """Every task sends as much as its share, however loud its losses are.

    What a task's head sends back to all levels is multiplied by w_T · N / n_T: n_T is the root of
    the running mean of its squared norm, over the steps in which it sent anything, and
    N = Σ w_U n_U / Σ w_U over the tasks that have, so that the order of magnitude stays. It costs a
    norm per task and level. An optimiser that divides by the size of gradients, as AdamW does, lets
    the loudest task own the step otherwise.

    Args:
        tasks: task name → its share w_T.
        scale: factor on everything.
        decay: of the running means.
    """

    def __init__(self, tasks: Mapping[str, float], scale: float = 1.0, decay: float = 0.99) -> None:
        super().__init__(tasks, scale)
        self.decay = decay
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(len(tasks)))
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros(len(tasks)))

    def weigh(self, sent: Sent) -> None:
        squares = torch.stack([self._square(levels) for levels in sent])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(squares)
        # A task that sends nothing stays as it was; so do all in a step that overflows.
        heard = (squares > 0) & squares.isfinite().all()
        self.steps += heard
        weight = (1 / self.steps.clamp(min=1)).clamp(min=1 - self.decay)
        self.mean.lerp_(torch.where(heard, squares, self.mean), weight)
        norms, known = self.mean.sqrt(), self.steps > 0
        common = (self.share * norms).sum() / (self.share * known).sum().clamp(min=1e-12)
        self.factor.copy_(torch.where(known, self.share * common / norms, self.share))

    def _square(self, levels: Sequence[Tensor | None]) -> Tensor:
        """The squared norm of what a task sends."""
        norms = [_norm(gradient) for gradient in levels if gradient is not None]
        return torch.stack(norms).square().sum() if norms else self.mean.new_zeros(())


def _norm(gradient: Tensor) -> Tensor:
    """Added up in float32 at least."""
    precise = torch.promote_types(gradient.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(gradient, dtype=precise)
    return norm.float()
