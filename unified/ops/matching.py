"""Which cells and anchors are responsible for which box."""

from __future__ import annotations

import torch
from torch import Tensor

from unified.ops.dense import Cells, DenseBoxes, Matches


def match(
    boxes: Tensor, image: Tensor, counted: Tensor, dense: DenseBoxes, max_ratio: float
) -> Matches:
    """Match boxes to anchors and cells of all levels by side ratio and neighbour cells.

    A box matches an anchor whose sides are all within a factor `max_ratio` of its own; it is
    then assigned to the cell of its centre and to the two cells nearest to that centre
    (facts of the released YOLOR detector). The number of matches is all that is asked of the
    device.

    Args:
        boxes: (M, 4) in pixels.
        image: (M,) position in the batch.
        counted: (M,) bool, the boxes that are matched; others match nothing.
        dense: whose cells and anchors they are.
        max_ratio: limit of the side ratio.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    ratio = sides[:, None] / dense.anchors[:, None]  # (L, M, A, 2)
    fits = (torch.maximum(ratio, 1 / ratio).amax(3) < max_ratio) & counted[:, None]

    strides = dense.strides[:, None]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    x, y = centre[:, 0] / strides, centre[:, 1] / strides  # (L, M)
    own_x, own_y = x.floor(), y.floor()
    beside = own_x + torch.where(x - own_x < 0.5, -1.0, 1.0)
    above = own_y + torch.where(y - own_y < 0.5, -1.0, 1.0)
    column = torch.stack([own_x, beside, own_x], 1)  # (L, 3, M)
    row = torch.stack([own_y, own_y, above], 1)
    height, width = next(iter(dense.raw.values())).shape[2:4]
    step, finest = strides[:, None], dense.strides[0]
    inside = (column >= 0) & (row >= 0)
    inside &= (column * step < width * finest) & (row * step < height * finest)

    level, way, target, anchor = (inside[..., None] & fits[:, None]).nonzero(as_tuple=True)
    place = level, way, target
    cells = Cells(
        image=image[target],
        level=level,
        anchor=anchor,
        y=row[place].long(),
        x=column[place].long(),
        levels=tuple(dense.raw),
    )
    return Matches(cells, target)
