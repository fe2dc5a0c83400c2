"""Segments: every pixel belongs to one object or to one kind of stuff (panoptic labels)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from unified.arrays import IGNORE, Array, Json
from unified.canvas import Canvas
from unified.errors import DataError
from unified.kinds.ids import look_up, numbers_of
from unified.kinds.kind import Ask, Categories, Result
from unified.kinds.pixels import PixelCells, PixelClasses, PixelTargets
from unified.rle import encode
from unified.view import View, warp_labels

VOID = 0
"""Id of a pixel that belongs to no segment."""


@dataclass(frozen=True)
class SegmentSpace(Categories):
    """Categories, and which of them are countable things."""

    things: tuple[bool, ...] = ()

    def differs(self, other: SegmentSpace) -> str | None:  # type: ignore[override]
        if self.ids == other.ids and self.names == other.names and self.things != other.things:
            pairs = zip(self.names, self.things, other.things, strict=True)
            return f"things in one, stuff in the other: {[n for n, a, b in pairs if a != b][:5]}"
        return super().differs(other)


@dataclass(frozen=True)
class SegmentClasses(PixelClasses):
    """The panoptic class of every pixel, without the segments."""

    kind: ClassVar[str] = "segments"
    panel: ClassVar[str | None] = "segments"


@dataclass
class SegmentTargets(PixelTargets):
    """Panoptic classes (B, s, s) of the cells of B inputs."""

    def shown(self, row: int) -> SegmentClasses:
        return SegmentClasses(self.classes[row])


@dataclass(frozen=True)
class SegmentCells(PixelCells):
    """Panoptic classes of the cells of an input."""

    targets: ClassVar[type[PixelTargets]] = SegmentTargets


@dataclass(frozen=True)
class SegmentLabel:
    """The segments of one image.

    Attributes:
        pixels: (H, W, 3) uint8, a segment's id in each pixel, its lowest byte first.
        ids: (S,) int64 of the segments that are listed, none of them `VOID`.
        labels: (S,) int64 class indices.
        crowd: (S,) bool.
        file: where the pixels are from, for errors.
    """

    pixels: Array
    ids: Array
    labels: Array
    crowd: Array
    file: str

    def seen(self, view: View, ask: SegmentAsk) -> SegmentCells:
        """Classes of the cells; only what is left of the pixels gets one."""
        warped = warp_labels(self.pixels, view, ask.stride, outside=VOID)
        return SegmentCells(self._classes(numbers_of(warped)))

    def classes(self) -> Array:
        """(H, W) uint8 class indices; `IGNORE` in crowds, which may hold anything, and in void."""
        return self._classes(numbers_of(self.pixels))

    def rows(self) -> Array:
        """(H, W) int32 row of the pixel's segment, from 1; 0 in crowds and in void."""
        listed = np.arange(len(self.ids), dtype=np.int64)[~self.crowd]
        numbers = numbers_of(self.pixels)
        found = look_up(numbers, self.ids[~self.crowd], listed, np.uint16) + np.uint16(1)
        self._refuse_unlisted(numbers[found == 0])
        return np.asarray(found.astype(np.int32))

    def _classes(self, numbers: Array) -> Array:
        found = look_up(numbers, self.ids[~self.crowd], self.labels[~self.crowd], np.uint8)
        self._refuse_unlisted(numbers[found == IGNORE])
        return found

    def _refuse_unlisted(self, numbers: Array) -> None:
        """Of ids without a class, those of crowds and void may be."""
        strange = numbers[numbers != VOID]
        strange = strange[~np.isin(strange, self.ids)] if len(strange) else strange
        if len(strange):
            raise DataError(
                f"label file {self.file} has pixels of segment {strange[0]}, which segments_info "
                "does not list",
                "list it, or make its pixels black",
            )


@dataclass(frozen=True)
class SegmentAsk(Ask):
    """Panoptic classes of the cells of an input.

    Attributes:
        stride: input pixels per cell.
    """

    kind = SegmentClasses.kind
    seen = SegmentCells
    space = SegmentSpace

    stride: int = 1


@dataclass(frozen=True)
class PanopticTruth:
    """What the panoptic scorer reads.

    Attributes:
        annotations: image id → its annotation in COCO's json.
        folder: of the PNGs.
    """

    annotations: dict[int, dict[str, Any]]
    folder: Path


@dataclass(frozen=True)
class PanopticSegments(Result):
    """Panoptic segmentation of one image.

    Attributes:
        segments: (H, W) int32; 0 is no segment, k belongs to row k − 1 of the others.
        labels: (S,) int64 class indices.
        scores: (S,) of things, that of the detection; 1 for stuff.
    """

    kind: ClassVar[str] = SegmentAsk.kind
    panel: ClassVar[str | None] = "segments"
    layer: ClassVar[int] = 0

    segments: Tensor
    labels: Tensor
    scores: Tensor

    @property
    def names(self) -> list[str]:
        """Category of each segment."""
        return [self.space.names[label] for label in self.labels.tolist()]

    def above(self, min_score: float) -> PanopticSegments:
        own = self.scores >= min_score
        numbers = torch.cat([own.new_zeros(1), own]).cumsum(0) * torch.cat([own.new_zeros(1), own])
        segments = numbers.to(self.segments)[self.segments.long()]
        return replace(self, segments=segments, labels=self.labels[own], scores=self.scores[own])

    def plain(self) -> Json:
        """One run length per segment."""
        segments = self.segments.cpu().numpy()
        rows = zip(self.names, self.labels.tolist(), self.scores.tolist(), strict=True)
        return [
            {
                "category": name,
                "thing": self.space.things[label],
                "score": round(score, 5),
                "segmentation": encode(segments == number),
            }
            for number, (name, label, score) in enumerate(rows, 1)
        ]

    def draw(self, canvas: Canvas) -> None:
        """Each object of a class a little differently; white borders; names."""
        segments = self.segments.cpu().numpy()
        labels = self.labels.tolist()
        earlier = [labels[:k].count(label) for k, label in enumerate(labels)]
        colours = [(label + 21 * n) % IGNORE for label, n in zip(labels, earlier, strict=True)]
        canvas.tint(np.array([IGNORE, *colours], np.uint8)[segments])
        canvas.borders(segments)
        canvas.names((name, segments == k) for k, name in enumerate(self.names, 1))
