"""Pixels: a class for every pixel of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from unified.arrays import IGNORE, Array, Json
from unified.canvas import Canvas
from unified.kinds.kind import Ask, Categories, Result, Targets, known_rows
from unified.rle import Rle, encode
from unified.view import View, warp_labels

OTHER = "other"
"""COCO-Stuff's category for every pixel of a thing."""


@dataclass(frozen=True)
class PixelClasses(Result):
    """Semantic segmentation of one image: `classes` (H, W) uint8 indices at its original size."""

    kind: ClassVar[str] = "pixels"
    panel: ClassVar[str | None] = "pixels"
    layer: ClassVar[int] = 0

    classes: Tensor

    def plain(self) -> Json:
        """One run length per class that is seen."""
        masks = class_masks(self.classes.cpu().numpy())
        return [{"category": self.space.names[k], "segmentation": rle} for k, rle in masks]

    def draw(self, canvas: Canvas) -> None:
        classes = self.classes.cpu().numpy()
        canvas.tint(classes)
        seen = [int(k) for k in np.unique(classes) if k != IGNORE]
        canvas.names((self.space.names[k], classes == k) for k in seen)


@dataclass(frozen=True)
class CategoryLabel:
    """Category ids of the pixels of one image, as they are stored.

    Attributes:
        pixels: (H, W) uint8.
        class_of: (256,) uint8 class index of every id, `IGNORE` for those of none, 255 among them.
    """

    pixels: Array
    class_of: Array

    def seen(self, view: View, ask: PixelAsk) -> PixelCells:
        """Only what is left of the pixels gets a class."""
        return PixelCells(self.class_of[warp_labels(self.pixels, view, ask.stride)])

    def classes(self) -> Array:
        """(H, W) uint8 class indices, `IGNORE` where nothing is known."""
        return np.asarray(self.class_of[self.pixels])


@dataclass
class PixelTargets(Targets):
    """Class maps of B inputs.

    Attributes:
        classes: (B, s, s) uint8 class indices, `IGNORE` where nothing is known.
    """

    classes: Tensor

    def shown(self, row: int) -> PixelClasses:
        return PixelClasses(self.classes[row])


@dataclass(frozen=True)
class PixelCells:
    """Class indices of the cells of an input.

    Attributes:
        classes: (s, s) uint8, `IGNORE` where nothing is known.
    """

    targets: ClassVar[type[PixelTargets]] = PixelTargets

    classes: Array

    @classmethod
    def joined(cls, parts: Sequence[PixelCells]) -> PixelCells:
        whole = parts[0].classes.copy()
        for part in parts[1:]:
            np.copyto(whole, part.classes, where=part.classes != IGNORE)
        return cls(whole)

    @classmethod
    def batched(cls, rows: Sequence[PixelCells | None], ask: PixelAsk, size: int) -> PixelTargets:
        nothing = np.full((size // ask.stride,) * 2, IGNORE, np.uint8)
        classes = np.stack([nothing if row is None else row.classes for row in rows])
        return cls.targets(known_rows(rows), torch.from_numpy(classes))


@dataclass(frozen=True)
class PixelAsk(Ask):
    """Classes of the cells of an input.

    Attributes:
        stride: input pixels per cell.
    """

    kind = PixelClasses.kind
    seen = PixelCells
    space = Categories

    stride: int = 1


def class_masks(classes: Array) -> Iterator[tuple[int, Rle]]:
    """Every class index of a map (H, W), and its pixels; `IGNORE` is none."""
    for index in np.unique(classes):
        if index != IGNORE:
            yield int(index), encode(classes == index)
