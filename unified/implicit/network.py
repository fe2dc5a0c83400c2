"""A one-layer network decodes the code (YOLOR, equation 6, second form)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unified.bounds import Count, NonNegative
from unified.implicit.linear import Linear

if TYPE_CHECKING:
    from typing_extensions import Self


class Network(Linear):
    """W z / √D with z ∈ R^D, D = 2C unless said otherwise."""

    @classmethod
    def of_task(
        cls,
        widths: Sequence[int],
        neutrals: Sequence[float],
        sigma: NonNegative = 0.02,
        latent: Count | None = None,
        shared: bool = False,
    ) -> list[Self]:
        """A network per slot.

        Args:
            widths, neutrals: of the slots.
            sigma: spread of what is decoded at the start.
            latent: length of z; None is twice the slot's width.
            shared: one z_T for all slots of the task.
        """
        return cls.of_lengths(widths, neutrals, sigma, lambda width: latent or 2 * width, shared)
