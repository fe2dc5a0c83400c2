"""Which cells and anchors are responsible for which box."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LevelMatch:
    """K matches on one pyramid level, all (K,) int64; `target` indexes the boxes given."""

    image: Tensor
    anchor: Tensor
    y: Tensor
    x: Tensor
    target: Tensor


def match_level(
    boxes: Tensor,
    image: Tensor,
    anchors: Tensor,
    grid: tuple[int, int],
    stride: int,
    max_ratio: float,
) -> LevelMatch:
    """Match boxes to anchors and cells of one level by side ratio and neighbour cells.

    A box matches an anchor whose sides are all within a factor `max_ratio` of its own; it is
    then assigned to the cell of its centre and to the two cells nearest to that centre
    (facts of the released YOLOR detector).

    Args:
        boxes: (M, 4) in pixels.
        image: (M,) position in the batch.
        anchors: (A, 2) in pixels.
        grid: (H, W) of the level.
        stride: pixels per cell.
        max_ratio: limit of the side ratio.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    ratio = sides[:, None] / anchors[None]
    fits = torch.maximum(ratio, 1 / ratio).amax(2) < max_ratio
    target, anchor = fits.nonzero(as_tuple=True)

    centre = (boxes[:, :2] + boxes[:, 2:])[target] / (2 * stride)
    own = centre.floor()
    toward = torch.where(centre - own < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(toward[:, 0])
    cells = torch.stack(
        [
            own,
            own + torch.stack([toward[:, 0], zero], 1),
            own + torch.stack([zero, toward[:, 1]], 1),
        ]
    ).long()  # (3, K, 2) as x, y
    limit = torch.tensor([grid[1], grid[0]], device=boxes.device)
    inside = ((cells >= 0) & (cells < limit)).all(2)
    which, row = inside.nonzero(as_tuple=True)
    chosen = cells[which, row]
    return LevelMatch(
        image=image[target[row]],
        anchor=anchor[row],
        y=chosen[:, 1],
        x=chosen[:, 0],
        target=target[row],
    )
