"""Exact outlines: polygons along pixel edges that rasterise back to the very same mask."""

from __future__ import annotations

import numpy as np

from unified.arrays import Array


def trace(mask: Array) -> tuple[list[list[int]], bool]:
    """Outline a binary mask.

    Args:
        mask: (H, W), non-zero inside.

    Returns:
        Flat polygons `x y x y …` of the outer borders, and whether the mask has holes, which
        polygons in COCO's format cannot express.
    """
    inside = np.pad(mask > 0, 1)
    edges: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # Directed so that the inside lies to the right: begin and end of each kind of edge.
    for dy, dx, begin, end in (
        (-1, 0, (0, 0), (1, 0)),
        (1, 0, (1, 1), (0, 1)),
        (0, -1, (0, 1), (0, 0)),
        (0, 1, (1, 0), (1, 1)),
    ):
        border = inside & ~np.roll(inside, (-dy, -dx), (0, 1))
        for y, x in np.argwhere(border) - 1:
            edges.setdefault((x + begin[0], y + begin[1]), []).append((x + end[0], y + end[1]))
    rings, holes = [], False
    while edges:
        ring = _walk(edges)
        if _signed_area(ring) > 0:
            rings.append([int(c) for point in ring for c in point])
        else:
            holes = True
    return rings, holes


def _walk(edges: dict[tuple[int, int], list[tuple[int, int]]]) -> list[tuple[int, int]]:
    """Follow edges from any start until the ring closes; straight runs become one edge."""
    start = next(iter(edges))
    ring: list[tuple[int, int]] = []
    point, step = start, (0, 0)
    while True:
        ends = edges[point]
        # Where two pixels touch by a corner, turning right stays on the same pixel.
        right = (point[0] - step[1], point[1] + step[0])
        following = right if len(ends) > 1 and right in ends else ends[0]
        ends.remove(following)
        if not ends:
            del edges[point]
        new_step = (following[0] - point[0], following[1] - point[1])
        if new_step != step:
            ring.append(point)
        point, step = following, new_step
        if point == start:
            return ring


def _signed_area(ring: list[tuple[int, int]]) -> float:
    """Positive for a ring that is clockwise on the screen."""
    xy = np.array(ring, float)
    following = np.roll(xy, -1, 0)
    return float((xy[:, 0] * following[:, 1] - following[:, 0] * xy[:, 1]).sum() / 2)
