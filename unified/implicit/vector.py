"""The code itself is the representation (YOLOR, equation 6, first form)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unified.bounds import NonNegative
from unified.implicit.decoder import Decoder, draw

if TYPE_CHECKING:
    from typing_extensions import Self


class Vector(Decoder):
    """z ∈ R^C."""

    def __init__(self, width: int, neutral: float, sigma: float) -> None:
        super().__init__()
        self.neutral = neutral
        self.z = draw((width,), neutral, sigma)

    @classmethod
    def of_task(
        cls, widths: Sequence[int], neutrals: Sequence[float], sigma: NonNegative = 0.02
    ) -> list[Self]:
        """A code per slot, drawn from N(neutral, sigma).

        Args:
            widths, neutrals: of the slots.
            sigma: spread of the codes at the start.
        """
        return [cls(width, neutral, sigma) for width, neutral in zip(widths, neutrals, strict=True)]

    def forward(self, like: Tensor | None) -> Tensor:
        return self.z

    @torch.no_grad()
    def neutralise(self) -> None:
        self.z.fill_(self.neutral)
