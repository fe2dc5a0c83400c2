"""The fixed point of a contraction decodes the code.

Deep equilibrium models (Bai et al., arXiv 1909.01377), of the article's list of implicit systems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from msgspec import Meta
from torch import Tensor

from unified.bounds import Count, NonNegative
from unified.implicit.decoder import Decoder, draw

if TYPE_CHECKING:
    from typing_extensions import Self

Contraction = Annotated[float, Meta(gt=0, le=0.95)]
TOLERANCE = 1e-6
"""Distance from the fixed point at which iteration ends."""


class Equilibrium(Decoder):
    """neutral + V h / √D with h = tanh(W h + z), W ∈ R^{D×D}, V ∈ R^{C×D} and z ∈ R^D.

    W is scaled to a Frobenius norm of ρ < 1. So the map is a contraction, whose one fixed point is
    reached from anywhere, and how many steps suffice is known beforehand: h starts at most √D away,
    and each step leaves ρ of the distance. Gradients are those of the fixed point, by the implicit
    function theorem. V starts so that what is decoded is N(neutral, σ).

    Attributes:
        steps: of one decoding.
    """

    def __init__(self, width: int, neutral: float, sigma: float, latent: int, rho: float) -> None:
        super().__init__()
        self.neutral, self.rho = neutral, rho
        self.steps = math.ceil(math.log(TOLERANCE / latent**0.5) / math.log(rho))
        self.weight = draw((latent, latent), 0.0, 1.0)
        self.z = draw((latent,), 0.0, 1.0)
        size = float(self.fixed_point().detach().norm())
        self.readout = draw((width, latent), 0.0, sigma * latent**0.5 / size)

    @classmethod
    def of_task(
        cls,
        widths: Sequence[int],
        neutrals: Sequence[float],
        sigma: NonNegative = 0.02,
        latent: Count = 32,
        rho: Contraction = 0.8,
    ) -> list[Self]:
        """A fixed point per slot.

        Args:
            widths, neutrals: of the slots.
            sigma: spread of what is decoded at the start.
            latent: D.
            rho: ρ, what a step leaves of a distance at most.
        """
        return [
            cls(width, neutral, sigma, latent, rho)
            for width, neutral in zip(widths, neutrals, strict=True)
        ]

    def forward(self, like: Tensor | None) -> Tensor:
        decoded: Tensor = self.neutral + self.readout @ self.fixed_point() / len(self.z) ** 0.5
        return decoded

    def fixed_point(self) -> Tensor:
        """(D,), with the gradient of a fixed point: g = (I − J)⁻ᵀ of the one from behind."""
        weight = self.rho * self.weight / self.weight.norm()

        def step(h: Tensor) -> Tensor:
            return torch.tanh((weight * h).sum(1) + self.z)  # a product would be of 16 bits

        with torch.no_grad():
            h = torch.zeros_like(self.z)
            for _ in range(self.steps):
                h = step(h)
            jacobian = (1 - h.square())[:, None] * weight
            away = torch.eye(len(h), device=h.device, dtype=h.dtype) - jacobian
        again = step(h)
        if again.requires_grad:
            again.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: torch.linalg.solve(away.T, gradient)
            )
        return again

    @torch.no_grad()
    def neutralise(self) -> None:
        self.readout.zero_()

    def flops(self, like: Tensor) -> int:
        return 2 * (self.steps * self.weight.numel() + self.readout.numel())
