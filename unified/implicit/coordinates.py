"""A network of coordinates decodes the code: a representation for every position.

Implicit neural representations with Fourier features (Tancik et al., arXiv 2006.10739), of the
article's list of implicit systems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unified.bounds import Count, NonNegative
from unified.implicit.decoder import Decoder, draw

if TYPE_CHECKING:
    from typing_extensions import Self


class Coordinates(Decoder):
    """neutral + W₂ silu(W₁ [γ(p); z]) at every position p of a feature, from −1 to 1.

    γ(p) = sin and cos of 2π B p, with the rows of B drawn from N(0, `frequency`). It is at home at
    any size of input, and folds into no weights: it costs its network at every position. W₂ starts
    so that what is decoded is N(neutral, σ).
    """

    constant = False

    def __init__(
        self, width: int, neutral: float, sigma: float, latent: int, hidden: int,
        features: int, frequency: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.neutral = neutral
        self.register_buffer("waves", torch.randn(features, 2) * frequency)
        self.z = draw((latent,), 0.0, 1.0)
        self.enter = nn.Linear(2 * features + latent, hidden)
        size = float(self._hidden(torch.rand(256, 2) * 2 - 1).detach().square().sum(1).mean())
        self.readout = draw((width, hidden), 0.0, sigma / size**0.5)

    waves: Tensor

    @classmethod
    def of_task(
        cls,
        widths: Sequence[int],
        neutrals: Sequence[float],
        sigma: NonNegative = 0.02,
        latent: Count = 16,
        hidden: Count = 32,
        features: Count = 8,
        frequency: NonNegative = 1.0,
    ) -> list[Self]:
        """A network per slot.

        Args:
            widths, neutrals: of the slots.
            sigma: spread of what is decoded at the start.
            latent: length of z.
            hidden: width of the network.
            features: waves of γ, each with a sine and a cosine.
            frequency: their spread, in periods over half of a side.
        """
        return [
            cls(width, neutral, sigma, latent, hidden, features, frequency)
            for width, neutral in zip(widths, neutrals, strict=True)
        ]

    def forward(self, like: Tensor | None) -> Tensor:
        """(1, C, …) of the size of `like`, which has two axes of positions at most."""
        sizes = [] if like is None else list(like.shape[2:])
        decoded = self.neutral + self._hidden(self._positions(sizes)) @ self.readout.T
        return decoded.T.reshape(1, -1, *sizes)

    def _positions(self, sizes: Sequence[int]) -> Tensor:
        """(N, 2) centres of cells; an axis that is not there is in the middle."""
        axes = [(torch.arange(n, device=self.z.device) + 0.5) * (2 / n) - 1 for n in sizes]
        axes += [torch.zeros(1, device=self.z.device)] * (2 - len(axes))
        return torch.cartesian_prod(*axes)

    def _hidden(self, positions: Tensor) -> Tensor:
        """(N, 2) → (N, hidden)."""
        angles = 2 * math.pi * positions @ self.waves.T
        known = torch.cat([angles.sin(), angles.cos(), self.z.expand(len(angles), -1)], 1)
        return F.silu(self.enter(known))

    @torch.no_grad()
    def neutralise(self) -> None:
        self.readout.zero_()

    def flops(self, like: Tensor) -> int:
        positions = math.prod(like.shape[2:])
        each = self.waves.numel() + self.enter.weight.numel() + self.readout.numel()
        return 2 * positions * each
