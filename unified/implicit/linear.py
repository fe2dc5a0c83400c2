"""A linear map decodes the code: what network and factorization have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from unified.implicit.decoder import Decoder, draw

if TYPE_CHECKING:
    from typing_extensions import Self


class Linear(Decoder):
    """W z / √D, with W ∈ R^{C×D} and z ∈ R^D.

    z starts at 1 and the entries of W at N(neutral/√D, σ): what is decoded starts as N(neutral, σ).
    All D products move at once: without the root a step moves what is decoded D times as far as
    it moves a plain vector, and a code that several slots share diverges. With it, the gradient
    through W is a vector's.
    """

    def __init__(self, width: int, neutral: float, sigma: float, z: nn.Parameter) -> None:
        super().__init__()
        self.neutral, latent = neutral, len(z)
        self.root = latent**0.5
        self.weight = draw((width, latent), neutral / self.root, sigma)
        self.z = z

    @classmethod
    def of_lengths(
        cls,
        widths: Sequence[int],
        neutrals: Sequence[float],
        sigma: float,
        length: Callable[[int], int],
        shared: bool,
    ) -> list[Self]:
        """Decoders whose codes have `length(width)` numbers; shared, that of the widest slot."""
        one = nn.Parameter(torch.ones(length(max(widths))))
        return [
            cls(width, neutral, sigma, one if shared else nn.Parameter(torch.ones(length(width))))
            for width, neutral in zip(widths, neutrals, strict=True)
        ]

    def forward(self, like: Tensor | None) -> Tensor:
        decoded: Tensor = self.weight @ self.z / self.root
        return decoded

    @torch.no_grad()
    def neutralise(self) -> None:
        """z ← e₀, which reads column 0 of W exactly."""
        self.z.zero_()
        self.z[0] = 1.0
        self.weight.zero_()
        self.weight[:, 0] = self.neutral * self.root

    def flops(self, like: Tensor) -> int:
        return 2 * self.weight.numel()
