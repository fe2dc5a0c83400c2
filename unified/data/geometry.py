"""Geometry on coordinates: one matrix per image, applied to boxes, polygons and keypoints.

Masks are drawn once, at the end, at the resolution at which they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from unified.data.tables import offsets_of
from unified.specs import Array, Instances, Rings

PADDING = 114
"""Grey of what no image covers."""
SUBPIXELS = 4
"""Finer cells per side in which a mask's cell is drawn."""
_FRACTION_BITS = 4


# --- Matrices (2, 3), original pixels → target pixels ---------------------------------------


def compose(outer: Array, inner: Array) -> Array:
    """outer ∘ inner."""
    return np.hstack([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2:] + outer[:, 2:]])


def letterbox(height: int, width: int, size: int) -> Array:
    """Scale the longer side to `size` and centre in the square."""
    scale = size / max(height, width)
    return np.array(
        [[scale, 0, (size - scale * width) / 2], [0, scale, (size - scale * height) / 2]]
    )


def transform_points(xy: Array, matrix: Array) -> Array:
    """(P, 2) → (P, 2) float32."""
    return np.asarray(xy @ matrix[:, :2].T + matrix[:, 2], np.float32)


def transform_boxes(boxes: Array, matrix: Array) -> Array:
    """(N, 4) → axis-aligned hulls of the transformed boxes, (N, 4)."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
    moved = transform_points(corners, matrix).reshape(-1, 4, 2)
    return np.concatenate([moved.min(1), moved.max(1)], 1)


# --- Pixels ---------------------------------------------------------------------------------


def warp_onto(canvas: Array, image: Array, matrix: Array) -> None:
    """Draw `image` into `canvas` (S, S, 3), in place, in one resampling.

    `matrix` maps continuous coordinates of the decoded image, where a pixel's centre is at
    +0.5; OpenCV counts from pixel centres, hence the two half-pixel shifts.
    """
    height, width = image.shape[:2]
    hull = transform_boxes(np.array([[0, 0, width, height]], np.float64), matrix)[0]
    x1, y1 = np.floor(hull[:2]).astype(int).clip(0, canvas.shape[0])
    x2, y2 = np.ceil(hull[2:]).astype(int).clip(0, canvas.shape[0])
    if x2 <= x1 or y2 <= y1:
        return
    shift = matrix[:, :2] @ [0.5, 0.5] + matrix[:, 2] - [x1 + 0.5, y1 + 0.5]
    region = canvas[y1:y2, x1:x2]
    rotated = bool(matrix[0, 1] or matrix[1, 0])
    warped = cv2.warpAffine(
        image,
        np.column_stack([matrix[:, :2], shift]),
        (x2 - x1, y2 - y1),
        dst=region.copy() if rotated else None,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_TRANSPARENT if rotated else cv2.BORDER_REPLICATE,
    )
    region[:] = warped


def warp_labels(pixels: Array, matrix: Array, side: int) -> Array:
    """(H, W, …) uint8 to (side, side, …) by nearest neighbour, 0 where nothing is.

    `matrix` maps continuous coordinates as in `warp_onto`.
    """
    shift = matrix[:, :2] @ [0.5, 0.5] + matrix[:, 2] - 0.5
    return cv2.warpAffine(
        pixels, np.column_stack([matrix[:, :2], shift]), (side, side), flags=cv2.INTER_NEAREST
    )


def rasterise(instances: Instances, size: int, stride: int) -> Array:
    """How much of every cell each object covers: (N, size/stride, size/stride) uint8, 255 is all.

    Every object is drawn once, inside its box, on a grid `SUBPIXELS` times finer, and averaged.
    """
    side = size // stride
    masks = np.zeros((len(instances), side, side), np.uint8)
    low = np.floor(instances.boxes[:, :2] / stride).astype(int).clip(0, side - 1)
    high = np.ceil(instances.boxes[:, 2:] / stride).astype(int).clip(low + 1, side)
    to_grid = SUBPIXELS / stride
    for index, pieces in _rings_of_objects(instances):
        (x1, y1), (x2, y2) = low[index], high[index]
        shifted = [piece * to_grid - SUBPIXELS * low[index] for piece in pieces]
        _shrink_onto(masks[index, y1:y2, x1:x2], _fill(shifted, (y2 - y1, x2 - x1)))
    for index, rle in instances.rles.items():
        (x1, y1), (x2, y2) = low[index], high[index]
        source = coco_mask.decode({"size": rle["size"], "counts": rle["counts"]})
        matrix = rle["transform"] * to_grid
        shift = matrix[:, :2] @ [0.5, 0.5] + matrix[:, 2] - SUBPIXELS * low[index] - 0.5
        grid = ((x2 - x1) * SUBPIXELS, (y2 - y1) * SUBPIXELS)
        place = np.column_stack([matrix[:, :2], shift])
        drawn = cv2.warpAffine(source * np.uint8(255), place, grid, flags=cv2.INTER_NEAREST)
        _shrink_onto(masks[index, y1:y2, x1:x2], drawn)
    return masks


def _rings_of_objects(instances: Instances) -> Iterator[tuple[int, list[Array]]]:
    """Objects that have polygons, with these."""
    rings = instances.rings
    if rings is None:
        return
    pieces = np.split(rings.xy, rings.offsets[1:-1])
    first = np.searchsorted(rings.owner, np.arange(len(instances) + 1))
    for index, (begin, end) in enumerate(pairwise(first)):
        if end > begin:
            yield index, pieces[begin:end]


def _fill(pieces: list[Array], cells: tuple[int, int]) -> Array:
    """The union of polygons on the finer grid of (rows, columns) cells.

    OpenCV fills every pixel that the outline touches. Half of each such pixel is outside on
    average, and the outline is drawn once more with that value.
    """
    shape = (cells[0] * SUBPIXELS, cells[1] * SUBPIXELS)
    union = np.zeros(shape, np.uint8)
    for xy in pieces:
        grid = np.zeros(shape, np.uint8) if len(pieces) > 1 else union
        fixed = [np.rint((xy - 0.5) * (1 << _FRACTION_BITS)).astype(np.int32)]
        cv2.fillPoly(grid, fixed, 255, shift=_FRACTION_BITS)
        cv2.polylines(grid, fixed, True, 128, shift=_FRACTION_BITS)
        np.maximum(union, grid, out=union)
    return union


def _shrink_onto(cells: Array, grid: Array) -> None:
    cells[:] = cv2.resize(grid, cells.shape[::-1], interpolation=cv2.INTER_AREA)


# --- Annotations ----------------------------------------------------------------------------


def mirror_pairs(names: Sequence[str]) -> Array:
    """(K,) permutation of joints that a mirror image calls for: left_x ↔ right_x."""
    index = {name: i for i, name in enumerate(names)}
    swap = {"left": "right", "right": "left"}
    partner = []
    for name in names:
        side, _, rest = name.partition("_")
        partner.append(
            index.get(f"{swap[side]}_{rest}", index[name]) if side in swap else index[name]
        )
    return np.array(partner, np.int64)


def transform_instances(
    instances: Instances,
    matrix: Array,
    size: int,
    mirror: Array,
    min_side: float = 0.0,
    min_visible: float = 0.0,
) -> Instances:
    """Move all labels of an image into the square of side `size` and drop what left it.

    Args:
        instances: labels in original pixels.
        matrix: original → target pixels.
        size: side of the target in pixels.
        mirror: joint permutation, applied where the matrix mirrors.
        min_side: drop objects whose clipped box is narrower or lower than this, in pixels.
        min_visible: drop objects of which a smaller share of the box is left.
    """
    rings = instances.rings
    if rings is not None:
        rings = replace(rings, xy=transform_points(rings.xy, matrix))
    boxes = transform_boxes(instances.boxes, matrix)
    if rings is not None and (matrix[0, 1] or matrix[1, 0]):
        boxes = _tighten(boxes, rings)
    clipped = boxes.clip(0, size)
    sides = clipped[:, 2:] - clipped[:, :2]
    whole = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-9)
    keep = (sides > min_side).all(1) & (sides.prod(1) / whole > min_visible)
    moved = replace(
        instances,
        boxes=clipped,
        rings=rings,
        rles={i: {**rle, "transform": matrix} for i, rle in instances.rles.items()},
        keypoints=_transform_keypoints(instances.keypoints, matrix, size, mirror),
    )
    return moved if keep.all() else select(moved, keep)


def _tighten(boxes: Array, rings: Rings) -> Array:
    """Boxes from the polygons, where there are any: a rotated box is looser than its object."""
    owner = np.repeat(rings.owner, np.diff(rings.offsets))
    low = np.full((len(boxes), 2), np.inf, np.float32)
    high = np.full((len(boxes), 2), -np.inf, np.float32)
    np.minimum.at(low, owner, rings.xy)
    np.maximum.at(high, owner, rings.xy)
    return np.where(np.isfinite(low).all(1, keepdims=True), np.concatenate([low, high], 1), boxes)


def _transform_keypoints(
    keypoints: Array | None, matrix: Array, size: int, mirror: Array
) -> Array | None:
    if keypoints is None:
        return None
    xy = transform_points(keypoints[..., :2].reshape(-1, 2), matrix).reshape(
        *keypoints.shape[:2], 2
    )
    inside = ((xy >= 0) & (xy <= size)).all(-1) & (keypoints[..., 2] > 0)
    moved = np.where(inside[..., None], np.concatenate([xy, keypoints[..., 2:]], -1), 0).astype(
        np.float32
    )
    mirrored = np.linalg.det(matrix[:, :2]) < 0
    return moved[:, mirror] if mirrored else moved


def select(instances: Instances, keep: Array) -> Instances:
    """The objects where `keep` (N,) is true."""
    rows = np.flatnonzero(keep)
    new_index = np.full(len(keep), -1, np.int64)
    new_index[rows] = np.arange(len(rows))
    rings = instances.rings
    if rings is not None:
        kept_rings = keep[rings.owner]
        lengths = np.diff(rings.offsets)
        rings = Rings(
            xy=rings.xy[np.repeat(kept_rings, lengths)],
            offsets=offsets_of(lengths[kept_rings]),
            owner=new_index[rings.owner[kept_rings]],
        )
    return Instances(
        boxes=instances.boxes[rows],
        labels=instances.labels[rows],
        crowd=instances.crowd[rows],
        ids=instances.ids[rows],
        identities=instances.identities[rows],
        rings=rings,
        rles={int(new_index[i]): r for i, r in instances.rles.items() if keep[i]},
        keypoints=None if instances.keypoints is None else instances.keypoints[rows],
        masks=None if instances.masks is None else instances.masks[rows],
    )


def merge(parts: Sequence[Instances]) -> Instances:
    """One list of objects from several images of a mosaic, masks not yet drawn."""
    starts = offsets_of(len(p) for p in parts)[:-1]
    with_rings = [(s, p.rings) for s, p in zip(starts, parts, strict=True) if p.rings is not None]
    with_joints = [p.keypoints for p in parts if p.keypoints is not None]
    joints = with_joints[0].shape[1] if with_joints else 0
    return Instances(
        boxes=np.concatenate([p.boxes for p in parts]),
        labels=np.concatenate([p.labels for p in parts]),
        crowd=np.concatenate([p.crowd for p in parts]),
        ids=np.concatenate([p.ids for p in parts]),
        identities=np.concatenate([p.identities for p in parts]),
        rings=Rings(
            xy=np.concatenate([r.xy for _, r in with_rings]),
            offsets=offsets_of(np.concatenate([np.diff(r.offsets) for _, r in with_rings])),
            owner=np.concatenate([r.owner + s for s, r in with_rings]),
        )
        if with_rings
        else None,
        rles={
            int(i + s): rle for s, p in zip(starts, parts, strict=True) for i, rle in p.rles.items()
        },
        keypoints=np.concatenate(
            [
                p.keypoints
                if p.keypoints is not None
                else np.zeros((len(p), joints, 3), np.float32)
                for p in parts
            ]
        )
        if joints
        else None,
    )
