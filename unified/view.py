"""Views: the only way from an image to a network input, and what moves its labels along.

Coordinates are continuous pixels, origin at the top-left corner of the top-left pixel, so an
image of width W spans [0, W]. A matrix is (2, 3) and maps original pixels to input pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from unified.arrays import IGNORE, Array

PLAIN = "plain"
"""Name of the view that changes nothing but the size: that of evaluation and prediction."""
PADDING = 114
"""Grey of what no image covers."""


@dataclass(frozen=True)
class View:
    """How an image becomes a network input, or one part of it.

    Attributes:
        matrix: original → input pixels.
        size: side of the square input in pixels.
        min_side: objects narrower or lower than this many input pixels are lost from view.
        min_visible: objects of which a smaller share of the box is left are lost from view.
    """

    matrix: Array
    size: int
    min_side: float = 0.0
    min_visible: float = 0.0

    @property
    def mirrored(self) -> bool:
        """Whether left and right are exchanged."""
        return bool(np.linalg.det(self.matrix[:, :2]) < 0)

    @property
    def rotated(self) -> bool:
        """Whether rows and columns of the image are not rows and columns of the input."""
        return bool(self.matrix[0, 1] or self.matrix[1, 0])

    def points(self, xy: Array) -> Array:
        """(P, 2) → (P, 2) float32."""
        return move_points(xy, self.matrix)

    def boxes(self, boxes: Array) -> Array:
        """(N, 4) → axis-aligned hulls of the moved boxes, (N, 4), not clipped."""
        return move_boxes(boxes, self.matrix)

    def clip(self, moved: Array) -> tuple[Array, Array]:
        """Moved boxes (N, 4) cut at the input's border, and which (N,) stay in view."""
        clipped = moved.clip(0, self.size)
        sides = clipped[:, 2:] - clipped[:, :2]
        whole = np.maximum((moved[:, 2:] - moved[:, :2]).prod(1), 1e-9)
        keep = (sides > self.min_side).all(1) & (sides.prod(1) / whole > self.min_visible)
        return clipped, keep


@dataclass(frozen=True)
class ImageMeta:
    """Where a network input came from.

    Attributes:
        image_id: id in the json, -1 for an image without one.
        file: path of the image file, or a description.
        height, width: original size in pixels.
        transform: matrix of the image; of the first, where several are put together.
        view: name of the view.
        folder: which of the folders of images it is from; an id is unique within one.
    """

    image_id: int
    file: str
    height: int
    width: int
    transform: Array
    view: str = PLAIN
    folder: int = 0


# --- Matrices -------------------------------------------------------------------------------


def compose(outer: Array, inner: Array) -> Array:
    """outer ∘ inner."""
    return np.hstack([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2:] + outer[:, 2:]])


def letterbox(height: int, width: int, size: int) -> Array:
    """Scale the longer side to `size` and centre in the square."""
    scale = size / max(height, width)
    return np.array(
        [[scale, 0, (size - scale * width) / 2], [0, scale, (size - scale * height) / 2]]
    )


def meeting(shapes: Sequence[tuple[int, int]], meet: Array, size: int) -> list[Array]:
    """Four images (height, width), longer sides `size`, whose corners meet at the point (2,)."""
    matrices = []
    for index, (height, width) in enumerate(shapes):
        scale = size / max(height, width)
        corner = meet - [scale * width * (index % 2 == 0), scale * height * (index < 2)]
        matrices.append(np.array([[scale, 0, corner[0]], [0, scale, corner[1]]]))
    return matrices


def move_points(xy: Array, matrix: Array) -> Array:
    """(P, 2) → (P, 2) float32."""
    return np.asarray(xy @ matrix[:, :2].T + matrix[:, 2], np.float32)


def move_boxes(boxes: Array, matrix: Array) -> Array:
    """(N, 4) → axis-aligned hulls of the moved boxes, (N, 4)."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
    moved = move_points(corners, matrix).reshape(-1, 4, 2)
    return np.concatenate([moved.min(1), moved.max(1)], 1)


# --- Pixels ---------------------------------------------------------------------------------


def blank(size: int) -> Array:
    """An input (size, size, 3) that no image covers."""
    return np.full((size, size, 3), PADDING, np.uint8)


def draw(canvas: Array, image: Array, matrix: Array, height: int, width: int) -> Array:
    """Draw an image into an input, in place, in one resampling.

    Where rows and columns stay rows and columns, the part that is in view is drawn onto whole
    pixels, which is four times faster than onto fractions of them; the matrix follows by less
    than a pixel of the decoded image or of the input, whichever is larger.

    Args:
        canvas: (S, S, 3) uint8.
        image: (h, w, 3) uint8, possibly smaller than its original.
        matrix: original → input pixels.
        height, width: of the original.

    Returns:
        The matrix that labels have to follow.
    """
    if matrix[0, 1] or matrix[1, 0]:
        factor = np.diag([width / image.shape[1], height / image.shape[0]])
        _warp(canvas, image, np.column_stack([matrix[:, :2] @ factor, matrix[:, 2]]))
        return matrix
    side = len(canvas)
    across = _Span.of(matrix[0, 0], matrix[0, 2], width, image.shape[1], side)
    down = _Span.of(matrix[1, 1], matrix[1, 2], height, image.shape[0], side)
    if across is None or down is None:
        return matrix
    part, place = image[down.source, across.source], canvas[down.target, across.target]
    cv2.resize(part, place.shape[1::-1], dst=place, interpolation=cv2.INTER_LINEAR)
    if across.mirrored:
        cv2.flip(place, 1, dst=place)
    if down.mirrored:
        cv2.flip(place, 0, dst=place)
    return np.array([[across.scale, 0, across.shift], [0, down.scale, down.shift]])


def covered(views: Sequence[View], shapes: Sequence[tuple[int, int]]) -> tuple[slice, slice]:
    """Rows and columns of an input between which its images (height, width) lie."""
    spans = []
    for view, (height, width) in zip(views, shapes, strict=True):
        (a, b, e), (c, d, f) = view.matrix.tolist()
        across, down = sorted((0, a * width)), sorted((0, c * width))
        aslant, along = sorted((0, b * height)), sorted((0, d * height))
        spans.append(
            (across[0] + aslant[0] + e, across[1] + aslant[1] + e,
             down[0] + along[0] + f, down[1] + along[1] + f)
        )  # fmt: skip
    left, right, top, bottom = zip(*spans, strict=True)
    side = views[0].size

    def inside(low: float, high: float) -> slice:
        return slice(max(0, math.floor(low)), max(0, min(side, math.ceil(high))))

    return inside(min(top), max(bottom)), inside(min(left), max(right))


@dataclass(frozen=True)
class _Span:
    """One axis of an image in an input: whole pixels of both, and the map between them.

    Attributes:
        source: pixels of the decoded image, in its own direction.
        target: pixels of the input.
        mirrored: the axis runs the other way.
        scale, shift: original → input pixels.
    """

    source: slice
    target: slice
    mirrored: bool
    scale: float
    shift: float

    @classmethod
    def of(cls, scale: float, shift: float, length: int, pixels: int, side: int) -> _Span | None:
        """Of `length` original and `pixels` decoded pixels; None where none of them is seen."""
        begin, end = sorted((shift, scale * length + shift))
        first, last = max(0, round(begin)), min(side, round(end))
        if last <= first:
            return None
        # Counted in the direction of the input. An end in view is the image's own, so that labels,
        # which go by the map, cover no more than what is drawn.
        per_pixel = pixels / (end - begin)
        low, high = 0, pixels
        if round(begin) < first:
            low = min(round((first - begin) * per_pixel), pixels - 1)
        if round(end) > last:
            high = max(min(pixels, round((last - begin) * per_pixel)), low + 1)
        grown = (last - first) / (high - low)
        own = grown * pixels / length
        if scale > 0:
            return cls(slice(low, high), slice(first, last), False, own, first - low * grown)
        source = slice(pixels - high, pixels - low)
        return cls(source, slice(first, last), True, -own, first + (pixels - low) * grown)


def _warp(canvas: Array, image: Array, matrix: Array) -> None:
    """Draw a rotated image; what it does not cover stays.

    `matrix` maps continuous coordinates of the decoded image, where a pixel's centre is at
    +0.5; OpenCV counts from pixel centres, hence the two half-pixel shifts.
    """
    height, width = image.shape[:2]
    hull = move_boxes(np.array([[0, 0, width, height]], np.float64), matrix)[0]
    x1, y1 = np.floor(hull[:2]).astype(int).clip(0, canvas.shape[0])
    x2, y2 = np.ceil(hull[2:]).astype(int).clip(0, canvas.shape[0])
    if x2 <= x1 or y2 <= y1:
        return
    shift = matrix[:, :2] @ [0.5, 0.5] + matrix[:, 2] - [x1 + 0.5, y1 + 0.5]
    region = canvas[y1:y2, x1:x2]
    region[:] = cv2.warpAffine(
        image,
        np.column_stack([matrix[:, :2], shift]),
        (x2 - x1, y2 - y1),
        dst=region.copy(),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_TRANSPARENT,
    )


def warp_labels(pixels: Array, view: View, stride: float, outside: int = IGNORE) -> Array:
    """Stored label pixels (H, W, …) to (S/stride, S/stride, …) by nearest neighbour.

    Args:
        pixels: uint8.
        view: where they go.
        stride: input pixels per cell.
        outside: value of cells that the image does not cover.
    """
    side = int(view.size / stride)
    matrix = view.matrix / stride
    shift = matrix[:, :2] @ [0.5, 0.5] + matrix[:, 2] - 0.5
    return cv2.warpAffine(
        pixels,
        np.column_stack([matrix[:, :2], shift]),
        (side, side),
        flags=cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(outside,) * 4,
    )
