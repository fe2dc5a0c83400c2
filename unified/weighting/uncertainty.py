"""Learned log variances."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unified.weighting.fixed import FixedWeighting


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
