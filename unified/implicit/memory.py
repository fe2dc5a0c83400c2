"""A memory decodes the code: values whose keys are like it.

After key-value memory networks (Miller et al., arXiv 1606.03126), of the article's list of implicit
systems.
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


class Entries(nn.Module):
    """Keys (N, D) and values (N, C)."""

    def __init__(self, keys: nn.Parameter, values: nn.Parameter) -> None:
        super().__init__()
        self.keys, self.values = keys, values


class Memory(Decoder):
    """neutral + w V / |w|, w = softmax(K z / √D): keys K ∈ R^{N×D}, values V ∈ R^{N×C}, z ∈ R^D.

    The values start at N(0, σ): what is decoded starts as N(neutral, σ), and a step of them moves
    it as far as a vector. A memory that tasks share has entries of each: a task reads its own and
    those of the tasks before it, never those that come later, so that a new one moves no old one.
    """

    def __init__(self, neutral: float, latent: int, entries: Sequence[Entries]) -> None:
        super().__init__()
        self.neutral = neutral
        self.entries = nn.ModuleList(entries)
        self.z = draw((latent,), 0.0, 1.0)

    @classmethod
    def of_task(
        cls,
        widths: Sequence[int],
        neutrals: Sequence[float],
        sigma: NonNegative = 0.02,
        entries: Count = 16,
        latent: Count = 16,
        shared: bool = False,
        pool: dict[int, list[Entries]] | None = None,
    ) -> list[Self]:
        """A code per slot; slots of one width read one memory.

        Args:
            widths, neutrals: of the slots.
            sigma: spread of what is decoded at the start.
            entries: N of each task.
            latent: D.
            shared: read the entries of the tasks before, too.
            pool: width → the entries of the tasks so far.
        """
        pool = {} if pool is None else pool
        memory = {
            width: [
                *(pool.get(width, []) if shared else []),
                Entries(draw((entries, latent), 0.0, 1.0), draw((entries, width), 0.0, sigma)),
            ]
            for width in dict.fromkeys(widths)
        }
        pool |= memory
        return [
            cls(neutral, latent, memory[width])
            for width, neutral in zip(widths, neutrals, strict=True)
        ]

    def forward(self, like: Tensor | None) -> Tensor:
        keys = torch.cat([own.keys for own in self._read()])
        values = torch.cat([own.values for own in self._read()])
        weights = torch.softmax(keys @ self.z / len(self.z) ** 0.5, 0)
        decoded: Tensor = self.neutral + weights @ values / weights.norm()
        return decoded

    def _read(self) -> list[Entries]:
        return list(self.entries)  # type: ignore[arg-type]

    @torch.no_grad()
    def neutralise(self) -> None:
        for own in self._read():
            own.values.zero_()

    def flops(self, like: Tensor) -> int:
        return sum(2 * (own.keys.numel() + own.values.numel()) for own in self._read())
