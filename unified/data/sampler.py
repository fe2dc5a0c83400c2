"""In which order the images of a split come, and how often."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from unified.arrays import Array

Key = tuple[int, ...]
"""(epoch, position in the split), and which time it is where an image comes again in an epoch:
together with the seed all that an input's randomness knows."""


class EpochSampler(Sampler[Key]):
    """Keys, shuffled per epoch, dealt out to the processes of a job.

    Lightning calls `set_epoch` after loaders have begun to read, so where a run goes on is said
    here: (epoch, images of it that this process has seen).

    Args:
        factors: (N,) how often each of N images comes in an epoch. What is left over a whole number
            is a probability, and every epoch has as many images.
        folder: (N,) which folder each is of: every process and every batch has about as many images
            of each as its share says, in any order.
        batch: images of a batch and process.
        shuffle: draw their order; else they come as they are.
        seed: start of all randomness.
        rank, world: which process this is, of how many.
        start: where it goes on.
    """

    def __init__(
        self,
        factors: Array,
        folder: Array,
        batch: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        start: tuple[int, int] = (0, 0),
    ) -> None:
        self.factors, self.folder, self.batch = factors, folder, batch
        self.length = round(float(factors.sum()))
        self.shuffle, self.seed = shuffle, seed
        self.rank, self.world = rank, world
        self.start, self.epoch = start, start[0]

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.length // self.world)

    def __iter__(self) -> Iterator[Key]:
        places = np.arange(self.length)
        order, offset = places.copy(), 0.5
        if self.shuffle:
            rng = np.random.default_rng((self.seed, self.epoch))
            rng.shuffle(order)
            offset = rng.random()
        images = in_turn(self.factors, offset)
        turns = places - np.searchsorted(images, images)
        drawn = np.stack([images, turns], 1)[order]
        padded = np.resize(drawn, (len(self) * self.world, 2))
        # Validation always draws as in epoch 0: the same further views every time.
        epoch = self.epoch if self.shuffle else 0
        seen = self.start[1] if self.epoch == self.start[0] else 0
        for image, turn in self._dealt(padded)[seen:].tolist():
            yield (epoch, image, turn) if turn else (epoch, image)

    def _dealt(self, drawn: Array) -> Array:
        """What of an epoch this process has; of several folders, even in each of its batches."""
        if (self.folder == self.folder[:1]).all():
            return drawn[self.rank :: self.world]
        by_folder = drawn[self.folder[drawn[:, 0]].argsort(kind="stable")]
        own = by_folder[self.rank :: self.world]
        own = own[spread(self.folder[own[:, 0]])]
        if not self.shuffle:
            return own
        # Places in a batch say nothing: the first ones have views that others have not.
        rng = np.random.default_rng((self.seed, self.epoch, self.rank))
        batch = np.arange(len(own)) // self.batch
        return own[np.lexsort((rng.random(len(own)), batch))]


def in_turn(factors: Array, offset: float) -> Array:
    """Every image as often as it comes, one after the other.

    Args:
        factors: (N,) how often; what is left over a whole number is rounded by chance.
        offset: the chance, from 0 to 1.

    Returns:
        (Σ factors,) int64 rising positions of images.
    """
    total = round(float(factors.sum()))
    # Place k belongs to the first image whose share ends behind it.
    ends = np.cumsum(factors) * (total / factors.sum())
    images = np.searchsorted(ends, np.arange(total) + offset, side="right")
    return images.clip(max=len(factors) - 1)  # the last end is rounded


def spread(folder: Array) -> Array:
    """An order in which the images of every folder lie evenly.

    Args:
        folder: (M,) which one each image of an epoch is of.

    Returns:
        (M,) positions; those of one folder keep their order.
    """
    wanted = np.zeros(len(folder))
    for one in np.unique(folder):
        own = np.flatnonzero(folder == one)
        wanted[own] = (np.arange(len(own)) + 0.5) / len(own)
    return wanted.argsort(kind="stable")


def repeat_factors(first: Array, labels: Array, threshold: float) -> Array:
    """How often images come, so that those of rare categories come more often.

    An image comes max(1, √(t / f)) times, f the share of images that hold the rarest of its
    categories (Gupta et al. 2019, LVIS, appendix B).

    Args:
        first: (N + 1,) int64; image i holds the categories `labels[first[i]:first[i + 1]]`.
        labels: class indices, in any number.
        threshold: t, the share of images below which a category is rare.

    Returns:
        (N,) of one or more.
    """
    images = np.repeat(np.arange(len(first) - 1), np.diff(first))
    pairs = np.unique(np.stack([images, labels], 1), axis=0)
    share = np.bincount(pairs[:, 1]) / (len(first) - 1)
    factors = np.ones(len(first) - 1)
    np.maximum.at(factors, pairs[:, 0], np.sqrt(threshold / share[pairs[:, 1]]))
    return factors
