"""How far categories are out of balance, and weights that bring them back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unified.ops.processes import total_over

SLOPE, MIDDLE = 12.0, 0.8
"""γ and μ of equalisation loss v2: where and how sharply a category counts as out of balance."""


class Balance(nn.Module):
    """How far each category's positive and negative gradients are out of balance.

    Args:
        classes: number of categories.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("positive", torch.zeros(classes))
        self.register_buffer("negative", torch.zeros(classes))
        self.positive: Tensor
        self.negative: Tensor

    def weights(self, strength: float) -> tuple[Tensor, Tensor]:
        """(C,) of positives and (C,) of negatives, that bring them towards balance.

        They are those of equalisation loss v2 (Tan et al. 2021, equations 4 to 6) with α of
        `strength`: up to 1 + α of positives, down to 0 of negatives (below α = 1 down to 1 − α, so
        that 0 is the plain loss). They are 1 where nothing is known yet. The paper's objectness,
        for backgrounds of which all categories are denied, has no place here: nobody knows these.
        """
        ratio = self.positive / self.negative.clamp(min=1e-12)
        balanced = torch.sigmoid(SLOPE * (ratio - MIDDLE))
        lack = (1 - balanced) * (self.negative > 0)
        return 1 + strength * lack, 1 - min(strength, 1.0) * lack

    @torch.no_grad()
    def add(self, positive: Tensor, negative: Tensor) -> None:
        """Take the sizes of a step's gradients (C,); every process takes part."""
        sums = total_over(torch.stack([positive, negative]).to(self.positive.dtype))
        self.positive += sums[0]
        self.negative += sums[1]
