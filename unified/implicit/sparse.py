"""A sparse representation decodes the code: few atoms of a dictionary.

After the article's list of implicit systems; hard selection as in k-sparse autoencoders (Makhzani &
Frey, arXiv 1312.5663), the penalty as in basis pursuit denoising.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from unified.bounds import Count, NonNegative
from unified.implicit.decoder import Decoder, draw

if TYPE_CHECKING:
    from typing_extensions import Self


class Sparse(Decoder):
    """neutral + Aᵀ top_k(z) / √k, with atoms A ∈ R^{N×C} and z ∈ R^N.

    The entries of A start at N(0, σ), those of z near 1: what is decoded starts as N(neutral, σ),
    and a step moves it as far as a vector. An atom that is not chosen has the gradient that it
    would have if it were, so that the choice can change.
    """

    def __init__(self, neutral: float, atoms: nn.Parameter, keep: int | None, l1: float) -> None:
        super().__init__()
        self.neutral, self.l1 = neutral, l1
        self.keep = min(keep or len(atoms), len(atoms))
        self.atoms = atoms
        self.z = draw((len(atoms),), 1.0, 0.02)

    @classmethod
    def of_task(
        cls,
        widths: Sequence[int],
        neutrals: Sequence[float],
        sigma: NonNegative = 0.02,
        atoms: Count = 64,
        keep: Count | None = 8,
        l1: NonNegative = 0.0,
        shared: bool = False,
        pool: dict[int, nn.Parameter] | None = None,
    ) -> list[Self]:
        """A combination per slot.

        Args:
            widths, neutrals: of the slots.
            sigma: spread of what is decoded at the start.
            atoms: N.
            keep: k, how many take part; None takes all.
            l1: weight of the penalty |z|₁ / N in the loss.
            shared: slots of one width, of all tasks, choose from the same atoms.
            pool: width → atoms that tasks share.
        """
        pool = {} if pool is None else pool
        found = []
        for width, neutral in zip(widths, neutrals, strict=True):
            own = draw((atoms, width), 0.0, sigma)
            found.append(cls(neutral, pool.setdefault(width, own) if shared else own, keep, l1))
        return found

    def forward(self, like: Tensor | None) -> Tensor:
        chosen = torch.zeros_like(self.z)
        chosen[self.z.detach().abs().topk(self.keep).indices] = 1.0
        z = self.z - (self.z * (1 - chosen)).detach()
        decoded: Tensor = self.neutral + z @ self.atoms / self.keep**0.5
        return decoded

    def penalty(self) -> Tensor | None:
        return self.l1 * self.z.abs().mean() if self.l1 else None

    @torch.no_grad()
    def neutralise(self) -> None:
        self.z.zero_()

    def flops(self, like: Tensor) -> int:
        return 2 * self.keep * self.atoms.shape[1]
