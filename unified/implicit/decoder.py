"""The contract of a decoder g_φ, which turns a code into a representation that fits a slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import Self


class Decoder(nn.Module):
    """One slot's decoder, with the code that it decodes.

    Attributes:
        constant: the representation depends neither on the input nor on its size, so that it may
            be folded into weights; `forward` then takes None as well.
    """

    constant: bool = True

    @classmethod
    def of_task(cls, widths: Sequence[int], neutrals: Sequence[float]) -> list[Self]:
        """The decoders of all slots of one task, which may share what they like.

        A subclass adds options of its own; they are what `implicit.decoder` may say. One that takes
        `pool`, a dict, finds there what it left of the tasks before, which it may share.

        Args:
            widths: channels of each slot.
            neutrals: what leaves a feature as it is under each slot's operator, 0 or 1.
        """
        raise TypeError(f"{cls.__name__} must define of_task")

    def forward(self, like: Tensor | None) -> Tensor:
        """The representation (C,), or one that broadcasts against the feature `like` (B, C, …)."""
        raise TypeError(f"{type(self).__name__} must define forward")

    def neutralise(self) -> None:
        """Make the representation exactly neutral."""
        raise TypeError(f"{type(self).__name__} must define neutralise")

    def penalty(self) -> Tensor | None:
        """A scalar that the code adds to the loss, if any."""
        return None

    def flops(self, like: Tensor) -> int:
        """Multiplications and additions of one decoding for a feature `like`."""
        return 0


def draw(shape: tuple[int, ...], mean: float, spread: float) -> torch.nn.Parameter:
    """A parameter from N(mean, spread)."""
    return nn.Parameter(torch.empty(shape).normal_(mean, spread))
