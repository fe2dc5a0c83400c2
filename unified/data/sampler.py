"""In which order the images of a split come."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

Key = tuple[int, int]
"""(epoch, position in the split): together with the seed all that an input's randomness knows."""


class EpochSampler(Sampler[Key]):
    """Keys, shuffled per epoch, dealt out to the processes of a job.

    Lightning calls `set_epoch` after loaders have begun to read, so where a run goes on is said
    here: (epoch, images of it that this process has seen).
    """

    def __init__(
        self,
        length: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        start: tuple[int, int] = (0, 0),
    ) -> None:
        self.length, self.shuffle, self.seed = length, shuffle, seed
        self.rank, self.world = rank, world
        self.start, self.epoch = start, start[0]

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.length // self.world)

    def __iter__(self) -> Iterator[Key]:
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        padded = np.resize(order, len(self) * self.world)
        # Validation always draws as in epoch 0: the same further views every time.
        epoch = self.epoch if self.shuffle else 0
        seen = self.start[1] if self.epoch == self.start[0] else 0
        for index in padded[self.rank :: self.world][seen:]:
            yield epoch, int(index)
