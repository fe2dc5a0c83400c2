"""Factors by how fast losses fall."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unified.weighting.fixed import FixedWeighting


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
