"""Boxes: decoding of anchor outputs, small geometry, and the way back to the original image."""

from __future__ import annotations

import torch
from torch import Tensor

from unified.view import ImageMeta


def decode_boxes(raw: Tensor, grid_xy: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
    """Network numbers to boxes, as YOLOR decodes them.

    `xy = (2σ(t) − 0.5 + cell)·stride`, `wh = (2σ(t))²·anchor`.

    Args:
        raw: (…, 4) box outputs.
        grid_xy: (…, 2) cell column and row.
        anchors: (…, 2) width and height in pixels.
        strides: (…, 1) or () pixels per cell.

    Returns:
        (…, 4) `x1 y1 x2 y2` in pixels, float32.
    """
    unit = raw.float().sigmoid()
    centre = (2 * unit[..., :2] - 0.5 + grid_xy) * strides
    half = (2 * unit[..., 2:]).square() * anchors / 2
    return torch.cat([centre - half, centre + half], -1)


def shrink(boxes: Tensor, share: float) -> Tensor:
    """(N, 4) boxes with the same centres and `share` of the sides."""
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * share / 2
    return torch.cat([centre - half, centre + half], 1)


def to_original(boxes: Tensor, meta: ImageMeta) -> Tensor:
    """(N, 4) from input pixels back to the original image, clipped to it.

    Valid for letterboxed inputs (scale and shift); evaluation and prediction use no others.
    """
    matrix = torch.as_tensor(meta.transform, dtype=boxes.dtype, device=boxes.device)
    scale = matrix[[0, 1], [0, 1]].repeat(2)
    shift = matrix[:, 2].repeat(2)
    limit = boxes.new_tensor([meta.width, meta.height]).repeat(2)
    return ((boxes - shift) / scale).clamp(min=0).minimum(limit)


def points_to_original(points: Tensor, meta: ImageMeta) -> Tensor:
    """(…, 2) from input pixels back to the original image; valid where `to_original` is."""
    matrix = torch.as_tensor(meta.transform, dtype=points.dtype, device=points.device)
    return (points - matrix[:, 2]) / matrix[[0, 1], [0, 1]]


def inside(boxes: Tensor, grid: tuple[int, int], stride: Tensor) -> Tensor:
    """Which cells' centres lie in a box: (N, H, W) bool.

    Args:
        boxes: (N, 4) in pixels.
        grid: (H, W) of the level.
        stride: () pixels per cell.
    """
    down, across = _spans(boxes, grid, stride)
    return down[:, :, None] & across[:, None]


def inside_any(
    boxes: Tensor,
    image: Tensor,
    counted: Tensor,
    batch: int,
    grid: tuple[int, int],
    stride: Tensor,
) -> Tensor:
    """Which cells' centres lie in one of an image's boxes: (batch, H, W) bool.

    A product of matrices per image: no map is made for a box.

    Args:
        boxes: (N, 4) in pixels.
        image: (N,) position in the batch.
        counted: (N,) bool, which boxes are meant; the others hold nothing.
        batch: number of images.
        grid: (H, W) of the level.
        stride: () pixels per cell.
    """
    down, across = _spans(boxes, grid, stride)
    own = (image == torch.arange(batch, device=image.device)[:, None]) & counted
    return torch.bmm((own[:, None] & down.T).float(), across.float().expand(batch, -1, -1)) > 0


def _spans(boxes: Tensor, grid: tuple[int, int], stride: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows (N, H), and which columns (N, W), a box holds."""
    height, width = grid
    x = (torch.arange(width, device=boxes.device) + 0.5) * stride
    y = (torch.arange(height, device=boxes.device) + 0.5) * stride
    across = (x >= boxes[:, 0:1]) & (x <= boxes[:, 2:3])
    return (y >= boxes[:, 1:2]) & (y <= boxes[:, 3:4]), across
