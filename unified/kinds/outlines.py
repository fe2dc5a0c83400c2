"""Polygons of the objects of an image, flat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from unified.arrays import Array, offsets_of
from unified.view import View


@dataclass(frozen=True)
class Outlines:
    """Any number of rings per object.

    Attributes:
        xy: (P, 2) float32 vertices of all rings.
        offsets: (R + 1,) ring r is `xy[offsets[r]:offsets[r + 1]]`.
        owner: (R,) index of the object that ring r belongs to, rising.
    """

    xy: Array
    offsets: Array
    owner: Array

    def seen(self, view: View) -> Outlines:
        """Moved, not clipped."""
        return replace(self, xy=view.points(self.xy))

    def hulls(self, boxes: Array) -> Array:
        """Boxes (N, 4) of the objects' rings; of an object without any, its box of `boxes`."""
        owner = np.repeat(self.owner, np.diff(self.offsets))
        low = np.full((len(boxes), 2), np.inf, np.float32)
        high = np.full((len(boxes), 2), -np.inf, np.float32)
        np.minimum.at(low, owner, self.xy)
        np.maximum.at(high, owner, self.xy)
        found = np.isfinite(low).all(1, keepdims=True)
        return np.where(found, np.concatenate([low, high], 1), boxes)

    def by_object(self, count: int) -> Iterator[tuple[int, Sequence[Array]]]:
        """Of `count` objects those that have rings, with these."""
        pieces = np.split(self.xy, self.offsets[1:-1])
        first = np.searchsorted(self.owner, np.arange(count + 1))
        for index, (begin, end) in enumerate(pairwise(first)):
            if end > begin:
                yield index, pieces[begin:end]


def outlines_of(rings: Sequence[Sequence[Array]]) -> Outlines:
    """Rings (P, 2) of every object, flat."""
    flat = [ring for own in rings for ring in own]
    return Outlines(
        xy=np.concatenate(flat).astype(np.float32) if flat else np.zeros((0, 2), np.float32),
        offsets=offsets_of(len(ring) for ring in flat),
        owner=np.repeat(np.arange(len(rings)), [len(own) for own in rings]),
    )
