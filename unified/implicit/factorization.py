"""The representation is a product of two factors (YOLOR, equation 6, third form)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unified.bounds import Count, NonNegative
from unified.implicit.linear import Linear

if TYPE_CHECKING:
    from typing_extensions import Self


class Factorization(Linear):
    """Zᵀ c / √K with Z ∈ R^{K×C} and c ∈ R^K; Zᵀ is the weight and c the code."""

    @classmethod
    def of_task(
        cls,
        widths: Sequence[int],
        neutrals: Sequence[float],
        sigma: NonNegative = 0.02,
        rank: Count = 2,
        shared: bool = False,
    ) -> list[Self]:
        """A product per slot.

        Args:
            widths, neutrals: of the slots.
            sigma: spread of what is decoded at the start.
            rank: K; 2 makes the prior twice as wide as the explicit feature.
            shared: one c_T for all slots of the task.
        """
        return cls.of_lengths(widths, neutrals, sigma, lambda width: rank, shared)
