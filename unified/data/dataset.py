"""From a split to the views of its images, and from these to a batch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Dataset

from unified.arrays import Array
from unified.batch import Batch
from unified.data.augment import AugmentConfig, draw_colour, draw_mosaic, draw_single, recolour
from unified.data.images import draw_file
from unified.data.sampler import Key
from unified.data.split import Split
from unified.errors import ConfigError
from unified.kinds.kind import Ask, Seen
from unified.view import ImageMeta, View, blank, covered, letterbox

Views = Mapping[str, AugmentConfig | None]
"""Name → what to draw; None letterboxes."""


@dataclass
class Row:
    """One input with what is known of it.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        meta: where it came from.
        labels: kind → what of its label is in view; None where nothing is known.
    """

    image: Array
    meta: ImageMeta
    labels: dict[str, Seen | None]


class ViewDataset(Dataset[list[Row]]):
    """The views of the images of a split.

    Args:
        split: the annotated images.
        size: side of the square input in pixels, a multiple of 32.
        asks: what to read, and in which views.
        views: name → what to draw; None letterboxes. An image gives a row for each; in a batch,
            its share of the images does.
        repeat: kind → share of the images below which a category is rare; see `Split.factors`.
            None: each image comes once.
        seed: start of all randomness; a row depends on (seed, its key, view) only, not on
            the number of workers or on what was drawn before.
    """

    def __init__(
        self,
        split: Split,
        size: int,
        asks: Iterable[Ask],
        views: Views,
        repeat: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        self.factors = np.ones(len(split)) if repeat is None else split.factors(repeat)
        self.split, self.size, self.views, self.seed = split, size, dict(views), seed
        asked = list(asks)
        self.collate = Collate(asked, size)
        self.asks = {
            view: {ask.kind: ask for ask in asked if ask.view == view} for view in self.views
        }
        self.partners = {
            view: Partners(split, self.asks[view], self.factors)
            for view, augment in self.views.items()
            if augment is not None and augment.mosaic > 0
        }

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: Key) -> list[Row]:
        return self.see(key, self.views)

    def see(self, key: Key, views: Collection[str]) -> list[Row]:
        """An image in some of the views."""
        epoch, index, *turn = key
        rows = []
        for number, (view, augment) in enumerate(self.views.items()):
            if view not in views:
                continue
            # The first view keeps its draws, whatever others there are.
            further = (number, *turn) if number or turn else ()
            rng = np.random.default_rng((self.seed, epoch, index, *further))
            rows.append(self._see(rng, index, view, augment))
        return rows

    def _see(
        self, rng: np.random.Generator, index: int, view: str, augment: AugmentConfig | None
    ) -> Row:
        indices = [index]
        if augment is not None and rng.random() < augment.mosaic:
            indices += self.partners[view].draw(rng, index)
        shapes = [self.split.images.size(i) for i in indices]
        if augment is None:
            matrices = [letterbox(*shapes[0], self.size)]
        elif len(indices) > 1:
            matrices = draw_mosaic(rng, augment, shapes, self.size)
        else:
            matrices = [draw_single(rng, augment, *shapes[0], self.size)]
        canvas = blank(self.size)
        used = [self._draw(canvas, *place) for place in zip(indices, matrices, strict=True)]
        limits = (augment.min_side, augment.min_visible) if augment else (0.0, 0.0)
        seen = [View(matrix, self.size, *limits) for matrix in used]
        height, width = shapes[0]
        gain = draw_colour(rng, augment) if augment else None
        if gain is not None:
            recolour(canvas[covered(seen, shapes)], gain)  # what no image covers stays grey
        return Row(
            image=canvas,
            meta=ImageMeta(
                int(self.split.images.ids[index]), str(self.split.image_file(index)),
                height, width, used[0], view, int(self.split.folder[index]),
            ),
            labels={kind: self._label(ask, indices, seen) for kind, ask in self.asks[view].items()},
        )  # fmt: skip

    def _draw(self, canvas: Array, index: int, matrix: Array) -> Array:
        return draw_file(
            canvas,
            self.split.image_file(index),
            matrix,
            self.split.images.size(index),
            max_pixels=self.split.max_pixels,
        )

    def _label(self, ask: Ask, indices: Sequence[int], views: Sequence[View]) -> Seen | None:
        """What is in view; nothing is known where one of the images has no label."""
        parts = []
        for index, view in zip(indices, views, strict=True):
            label = self.split.label(ask.kind, index)
            if label is None:
                return None
            parts.append(label.seen(view, ask))
        return parts[0] if len(parts) == 1 else ask.seen.joined(parts)


def carried(views: Views, images: int) -> list[list[str]]:
    """The views of each of a batch's images; the first ones have the most."""
    shares = {view: augment.share if augment else 1.0 for view, augment in views.items()}
    most = max(shares.values())
    counts = {view: max(1, round(images * s / most)) for view, s in shares.items()}
    return [[v for v, count in counts.items() if place < count] for place in range(images)]


def images_of(views: Views, inputs: int) -> int:
    """How many images give a batch of at most so many inputs."""
    able = (n for n in range(inputs, 0, -1) if sum(map(len, carried(views, n))) <= inputs)
    return next(able, 0)


class Partners:
    """Whom an image may share a mosaic with: those that know all that it knows.

    Args:
        split: the images.
        kinds: what is asked of them in the view.
        factors: (N,) how often each comes.
    """

    def __init__(self, split: Split, kinds: Iterable[str], factors: Array) -> None:
        known = np.stack([np.ones(len(split), bool), *(split.known(kind) for kind in kinds)], 1)
        patterns, self.pattern = np.unique(known, axis=0, return_inverse=True)
        self.candidates = [np.flatnonzero((known | ~p).all(1)) for p in patterns]
        self.shares = [np.cumsum(factors[rows]) for rows in self.candidates]

    def draw(self, rng: np.random.Generator, index: int) -> list[int]:
        """Three of them, which may be the image itself."""
        pattern = int(self.pattern[index])
        shares = self.shares[pattern]
        places = np.searchsorted(shares, rng.random(3) * shares[-1], side="right")
        return [int(row) for row in self.candidates[pattern][places]]


class Collate:
    """Views of several images → one batch, with the inputs of one view behind those of another.

    Args:
        asks: what to put together.
        size: side of the inputs in pixels.

    Raises:
        ConfigError: one kind is asked for in two ways.
    """

    def __init__(self, asks: Iterable[Ask], size: int) -> None:
        self.size = size
        self.asks: dict[str, Ask] = {}
        for ask in asks:
            other = self.asks.setdefault(ask.kind, replace(ask, view=""))
            if not other.agrees(ask):
                raise ConfigError(
                    f"{ask.kind} labels are asked for in two ways that do not agree: {other} "
                    f"and {ask}",
                    "let the tasks ask alike, or select only one of them: task=[…]",
                )

    def __call__(self, groups: Sequence[list[Row]]) -> Batch:
        """A list of rows, one per view, for every image; the first image has all views."""
        views = [row.meta.view for row in groups[0]]
        rows = [row for v in views for group in groups for row in group if row.meta.view == v]
        # (B, S, S, 3) in memory is exactly channels_last: no transposition, no copy.
        images = torch.from_numpy(np.stack([row.image for row in rows])).permute(0, 3, 1, 2)
        labels = {
            kind: ask.seen.batched([row.labels.get(kind) for row in rows], ask, self.size)
            for kind, ask in self.asks.items()
        }
        return Batch(images, [row.meta for row in rows], labels)
