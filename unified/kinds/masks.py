"""Masks: which pixels each object of an image covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import cv2
import numpy as np
import torch
from torch import Tensor

from unified.arrays import Array, Json, offsets_of
from unified.canvas import Canvas
from unified.kinds.ids import numbers_of
from unified.kinds.kind import Ask, FlatTargets, Result, known_rows
from unified.kinds.objects import ObjectSpace, image_of_rows, join_keys
from unified.kinds.outlines import Outlines
from unified.rle import Rle, decode, encode
from unified.view import View, warp_labels

_FRACTION_BITS = 4


@dataclass(frozen=True)
class OutlineLabel:
    """The masks of one image as annotated: polygons or run lengths.

    Attributes:
        boxes: (N, 4) float32.
        keys: (N,) int64, those of the image's objects.
        outlines: polygons.
        rles: object index → compressed RLE, for masks that are not polygons.
    """

    boxes: Array
    keys: Array
    outlines: Outlines
    rles: dict[int, Rle]

    def seen(self, view: View, ask: MaskAsk) -> MaskCells:
        """Every object is drawn once."""
        moved = view.boxes(self.boxes)
        outlines = self.outlines.seen(view)
        if view.rotated:
            moved = outlines.hulls(moved)
        boxes, keep = view.clip(moved)
        drawing = Drawing(boxes, view.size, ask.stride)
        for index, rings in drawing.on_grid(outlines).by_object(len(boxes)):
            if keep[index]:
                drawing.rings(index, rings)
        for index, rle in self.rles.items():
            if keep[index]:
                drawing.pixels(index, decode(rle) * np.uint8(255), view.matrix)
        return drawing.label(self.keys)


@dataclass(frozen=True)
class MapLabel:
    """The masks of one image as segments of a map, each with its id.

    Attributes:
        boxes: (N, 4) float32.
        keys: (N,) int64, those of the image's objects.
        pixels: (H, W, 3) uint8, a segment's id in each pixel, its lowest byte first.
        segment: (N,) int64 the id of each object's segment.
    """

    boxes: Array
    keys: Array
    pixels: Array
    segment: Array

    def numbers(self) -> Array:
        """(H, W) uint32 ids."""
        return numbers_of(self.pixels)

    def seen(self, view: View, ask: MaskAsk) -> MaskCells:
        """The map is moved once; objects are read from that."""
        boxes, keep = view.clip(view.boxes(self.boxes))
        drawing = Drawing(boxes, view.size, ask.stride)
        fine = numbers_of(warp_labels(self.pixels, view, ask.stride / drawing.finer, outside=0))
        for index in np.flatnonzero(keep).tolist():
            inside, across = drawing.window(index)
            drawing.shrink(index, (fine[inside, across] == self.segment[index]) * np.uint8(255))
        return drawing.label(self.keys)


class Drawing:
    """Masks of N objects, each drawn inside of its box, on a grid finer than the cells.

    The grid has the resolution of the input, but at least `finer` = 2 of its cells make one of
    the mask's.

    Args:
        boxes: (N, 4) in input pixels, inside of the input.
        size: side of the input.
        stride: input pixels per cell.
    """

    def __init__(self, boxes: Array, size: int, stride: int) -> None:
        self.side, self.finer = size // stride, max(2, stride)
        self.to_grid = self.finer / stride
        self.low = np.floor(boxes[:, :2] / stride).astype(int).clip(0, self.side - 1)
        self.high = np.ceil(boxes[:, 2:] / stride).astype(int).clip(self.low + 1, self.side)
        self.drawn: dict[int, Array] = {}

    def window(self, index: int) -> tuple[slice, slice]:
        """Rows and columns of an object's box on the grid."""
        (x1, y1), (x2, y2) = self.low[index] * self.finer, self.high[index] * self.finer
        return slice(y1, y2), slice(x1, x2)

    def on_grid(self, outlines: Outlines) -> Outlines:
        """Outlines in input pixels → in fractions of cells of each object's grid, for OpenCV."""
        owner = np.repeat(outlines.owner, np.diff(outlines.offsets))
        xy = outlines.xy * self.to_grid - (self.finer * self.low[owner] + 0.5)
        return replace(outlines, xy=np.rint(xy * (1 << _FRACTION_BITS)).astype(np.int32))

    def rings(self, index: int, rings: Sequence[Array]) -> None:
        """The union of an object's polygons, as `on_grid` gives them."""
        width, height = self._extent(index)
        self.shrink(index, _fill(rings, (height, width)))

    def pixels(self, index: int, mask: Array, matrix: Array) -> None:
        """A mask (H, W) uint8 of 0 and 255, which `matrix` maps to the input."""
        scaled = matrix * self.to_grid
        shift = scaled[:, :2] @ [0.5, 0.5] + scaled[:, 2] - self.finer * self.low[index] - 0.5
        place = np.column_stack([scaled[:, :2], shift])
        grid = cv2.warpAffine(mask, place, self._extent(index), flags=cv2.INTER_NEAREST)
        self.shrink(index, grid)

    def shrink(self, index: int, grid: Array) -> None:
        """Average a finer drawing of an object's box over its cells."""
        width, height = (self.high[index] - self.low[index]).tolist()
        self.drawn[index] = cv2.resize(grid, (width, height), interpolation=cv2.INTER_AREA)

    def label(self, keys: Array) -> MaskCells:
        """What was drawn, without objects that cover nothing."""
        rows = sorted(index for index, cells in self.drawn.items() if cells.any())
        cells = [self.drawn[index] for index in rows]
        return MaskCells(keys[rows], self.low[rows], cells, self.side)

    def _extent(self, index: int) -> tuple[int, int]:
        """Width and height of an object's box on the grid."""
        width, height = ((self.high[index] - self.low[index]) * self.finer).tolist()
        return width, height


def _fill(rings: Sequence[Array], shape: tuple[int, int]) -> Array:
    """(H, W) uint8 union of polygons; their outlines, half inside, count half."""
    union = np.zeros(shape, np.uint8)
    for xy in rings:
        grid = np.zeros(shape, np.uint8) if len(rings) > 1 else union
        cv2.fillPoly(grid, [xy], 255, shift=_FRACTION_BITS)
        cv2.polylines(grid, [xy], True, 128, shift=_FRACTION_BITS)
        if len(rings) > 1:
            np.maximum(union, grid, out=union)
    return union


@dataclass(frozen=True)
class MaskCells:
    """The masks of an input that are in view, each no larger than its object.

    Attributes:
        keys: (N,) int64, those of the objects.
        low: (N, 2) int64 column and row at which the object begins.
        cells: N arrays (h, w) uint8, the coverage of every cell from there, 255 is all of it.
        side: cells per side of the input.
    """

    keys: Array
    low: Array
    cells: list[Array]
    side: int

    def __len__(self) -> int:
        return len(self.keys)

    def draw_onto(self, masks: Array) -> None:
        """Fill in (N, side, side) uint8."""
        for mask, (x, y), cells in zip(masks, self.low.tolist(), self.cells, strict=True):
            mask[y : y + cells.shape[0], x : x + cells.shape[1]] = cells

    @classmethod
    def joined(cls, parts: Sequence[MaskCells]) -> MaskCells:
        return cls(
            join_keys([p.keys for p in parts]),
            np.concatenate([p.low for p in parts]),
            [cells for p in parts for cells in p.cells],
            parts[0].side,
        )

    @classmethod
    def batched(cls, rows: Sequence[MaskCells | None], ask: MaskAsk, size: int) -> MaskTargets:
        known = [row for row in rows if row is not None]
        side = size // ask.stride
        ends = offsets_of(map(len, known))
        masks = np.zeros((int(ends[-1]), side, side), np.uint8)
        for row, (begin, end) in zip(known, pairwise(ends), strict=True):
            row.draw_onto(masks[begin:end])
        keys = [row.keys for row in known] or [np.zeros(0, np.int64)]
        return MaskTargets(
            known=known_rows(rows),
            image=image_of_rows(rows),
            keys=torch.from_numpy(np.concatenate(keys)),
            masks=torch.from_numpy(masks),
        )


@dataclass
class MaskTargets(FlatTargets):
    """Masks of objects of B inputs: M rows, for objects that have one and are in view.

    Attributes:
        keys: (M,) int64, those of the objects; see `find_objects`.
        masks: (M, s, s) uint8 coverage of every cell, 255 is all of it.
    """

    keys: Tensor
    masks: Tensor

    def shown(self, row: int) -> Masks:
        masks = self.masks[self.image == row].numpy() >= 128
        count = len(masks)
        return Masks(
            torch.zeros(count, 4), torch.ones(count), torch.zeros(count, dtype=torch.long),
            [encode(mask) for mask in masks],
        )  # fmt: skip


@dataclass(frozen=True)
class MaskAsk(Ask):
    """Masks of the objects.

    Attributes:
        stride: input pixels per cell.
    """

    kind = "masks"
    seen = MaskCells
    space = ObjectSpace

    stride: int = 1


@dataclass(frozen=True)
class Masks(Result):
    """Instance masks of one image, one per detection, best first.

    Attributes:
        boxes, scores, labels: those of the detections.
        rles: N masks of the original size as COCO's compressed run lengths.
    """

    kind: ClassVar[str] = MaskAsk.kind
    panel: ClassVar[str | None] = "objects"
    layer: ClassVar[int] = 0

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    rles: list[Rle]

    def dense(self) -> Array:
        """(N, H, W) uint8 of zeros and ones; (0, 0, 0) where there is none."""
        return np.stack([decode(rle) for rle in self.rles]) if self.rles else _NO_MASKS

    @property
    def names(self) -> list[str]:
        """Category of each object."""
        return [self.space.names[label] for label in self.labels.tolist()]

    def above(self, min_score: float) -> Masks:
        own = self.scores >= min_score
        return replace(
            self, boxes=self.boxes[own], scores=self.scores[own], labels=self.labels[own],
            rles=[rle for rle, is_own in zip(self.rles, own.tolist(), strict=True) if is_own],
        )  # fmt: skip

    def plain(self) -> Json:
        """The run lengths."""
        return self.rles

    def draw(self, canvas: Canvas) -> None:
        canvas.masks([decode(rle) for rle in self.rles])


_NO_MASKS = np.zeros((0, 0, 0), np.uint8)
