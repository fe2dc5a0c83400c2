"""Learned log variances."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unified.ops.processes import total_over
from unified.weighting.fixed import FixedWeighting


class UncertaintyWeighting(FixedWeighting):
    """Σ_T w_T (exp(-s_T) L_T + s_T) with learned log variances s_T (Kendall et al. 2018, eq. 7).

    A loss of 0 in all processes is that of a task of which the batch knows nothing: its s_T rests.
    """

    def __init__(self, tasks: Mapping[str, float], scale: float = 1.0) -> None:
        super().__init__(tasks, scale)
        self.log_variance = nn.ParameterDict({n: nn.Parameter(torch.zeros(())) for n in tasks})

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        logs = self.log_variance
        heard = total_over(torch.stack([loss.detach().abs() for loss in losses.values()])) > 0
        return super().forward(
            {
                name: torch.exp(-logs[name]) * loss + logs[name] * known
                for (name, loss), known in zip(losses.items(), heard, strict=True)
            }
        )

    def factors(self) -> dict[str, float]:
        fixed = super().factors()
        return {n: f * float(torch.exp(-self.log_variance[n].detach())) for n, f in fixed.items()}
