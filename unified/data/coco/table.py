"""Annotations of a whole split as a handful of arrays, which worker processes share."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unified.arrays import Array, Ragged, offsets_of
from unified.data.coco.document import Document
from unified.kinds.objects import ObjectLabel
from unified.kinds.outlines import Outlines

FARTHEST = 1e7
"""Pixels from the corner of an image at which nothing can be meant."""


@dataclass
class Table:
    """Annotations sorted by image; image i owns rows `first[i]:first[i + 1]`.

    Attributes:
        first: (images + 1,) int64.
        ids, labels, identities: (A,) int64; `labels` are class indices.
        boxes: (A, 4) float32, `x1 y1 x2 y2` in original pixels.
        areas: (A,) float32.
        crowd: (A,) bool.
        rings: polygon r is row r, flat x y x y …, float32.
        ring_first: (A + 1,) int64, annotation a owns polygons `ring_first[a]:ring_first[a + 1]`.
        rles: compressed run lengths per annotation, empty where it has polygons or nothing.
    """

    first: Array
    ids: Array
    labels: Array
    identities: Array
    boxes: Array
    areas: Array
    crowd: Array
    rings: Ragged
    ring_first: Array
    rles: Ragged

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, image: int) -> slice:
        """The rows of one image."""
        return slice(int(self.first[image]), int(self.first[image + 1]))

    def objects(self, image: int) -> ObjectLabel:
        """The objects of one image, in original pixels."""
        rows = self.rows(image)
        return ObjectLabel(
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            identities=self.identities[rows],
            keys=np.arange(rows.stop - rows.start),
            outlines=self.outlines(image),
        )

    def outlines(self, image: int) -> Outlines | None:
        """The polygons of one image's objects; None without any."""
        rows = self.rows(image)
        begin, end = self.ring_first[rows.start], self.ring_first[rows.stop]
        if begin == end:
            return None
        low, high = self.rings.offsets[begin], self.rings.offsets[end]
        counts = np.diff(self.ring_first[rows.start : rows.stop + 1])
        return Outlines(
            xy=self.rings.values[low:high].reshape(-1, 2),
            offsets=(self.rings.offsets[begin : end + 1] - low) // 2,
            owner=np.repeat(np.arange(len(counts)), counts),
        )

    def run_lengths(self, image: int) -> dict[int, bytes]:
        """Position among one image's objects → compressed run lengths, where it has some."""
        rows = self.rows(image)
        return {
            row - rows.start: self.rles[row].tobytes()
            for row in range(rows.start, rows.stop)
            if self.rles.offsets[row + 1] > self.rles.offsets[row]
        }


class TableBuilder:
    """Takes annotations one by one, in any order, and packs them."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.images, self.ids, self.categories, self.identities = (array("q") for _ in range(4))
        self.boxes, self.areas = array("d"), array("d")
        self.crowd = array("b")
        self.xy, self.ring_lengths, self.ring_counts = array("f"), array("q"), array("q")
        self.rles: dict[int, bytes] = {}

    def add(
        self,
        image: int,
        identifier: int,
        category: int,
        box: Sequence[float],
        area: float,
        crowd: bool,
        identity: int | None = None,
        rings: Sequence[Sequence[float]] = (),
        rle: bytes = b"",
    ) -> None:
        """Append one annotation; `box` is x, y, width, height."""
        if rle:
            self.rles[len(self.ids)] = rle
        x, y, w, h = box
        self.images.append(image)
        self.ids.append(identifier)
        self.categories.append(category)
        self.identities.append(identifier if identity is None else identity)
        self.boxes.extend((x, y, x + w, y + h))
        self.areas.append(area)
        self.crowd.append(crowd)
        for ring in rings:
            self.xy.extend(ring)
            self.ring_lengths.append(len(ring))
        self.ring_counts.append(len(rings))

    def build(self, images: Array, categories: Sequence[int]) -> Table:
        """Pack.

        Args:
            images: (N,) rising ids of the images.
            categories: category ids in the order of their class indices.

        Raises:
            DataError: an annotation names an image or category that is not listed.
        """
        place = self._look_up(self.images, {int(k): i for i, k in enumerate(images)}, "image")
        index = {category: i for i, category in enumerate(categories)}
        labels = self._look_up(self.categories, index, "category")
        self._refuse_far()
        order = np.argsort(place, kind="stable")
        ring_first = offsets_of(self.ring_counts)
        owned = np.repeat(ring_first[:-1][order], np.diff(ring_first)[order])
        counts = np.asarray(self.ring_counts, np.int64)[order]
        within = np.arange(len(owned)) - np.repeat(offsets_of(counts)[:-1], counts)
        rings = Ragged(np.frombuffer(self.xy, np.float32), offsets_of(self.ring_lengths))
        return Table(
            first=np.searchsorted(place[order], np.arange(len(images) + 1)).astype(np.int64),
            ids=np.asarray(self.ids, np.int64)[order],
            labels=labels[order],
            identities=np.asarray(self.identities, np.int64)[order],
            boxes=np.asarray(self.boxes, np.float32).reshape(-1, 4)[order],
            areas=np.asarray(self.areas, np.float32)[order],
            crowd=np.asarray(self.crowd, bool)[order],
            rings=rings.take(owned + within),
            ring_first=offsets_of(counts),
            rles=Ragged.of_bytes(self.rles.get(int(row), b"") for row in order)
            if self.rles
            else Ragged(np.zeros(0, np.uint8), np.zeros(len(order) + 1, np.int64)),
        )

    def _refuse_far(self) -> None:
        """Corners that lie where nothing can be meant, and would be drawn for minutes."""
        xy = np.frombuffer(self.xy, np.float32)
        far = np.flatnonzero(~(np.abs(xy) <= FARTHEST))
        if len(far):
            ring = np.searchsorted(offsets_of(self.ring_lengths), far[0], side="right") - 1
            row = np.searchsorted(offsets_of(self.ring_counts), ring, side="right") - 1
            raise self.document.refuse(
                f"annotation {self.ids[row]}",
                f"its segmentation has a corner at {xy[far[0]]:g}",
                "corners are pixels of the image",
            )

    def _look_up(self, keys: array[int], index: Mapping[int, int], what: str) -> Array:
        values = np.fromiter((index.get(key, -1) for key in keys), np.int64, len(keys))
        if (values < 0).any():
            row = int((values < 0).argmax())
            raise self.document.refuse(
                f"annotation {self.ids[row]}",
                f"it names {what} {keys[row]}, which the file does not list",
                "list every image and category, or drop the annotation",
            )
        return values
