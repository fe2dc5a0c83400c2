"""Values of maps between the centres of their cells."""

from __future__ import annotations

import torch
from torch import Tensor


def sample(maps: Tensor, image: Tensor, places: Tensor) -> Tensor:
    """(N, K, C) bilinear values at points that each have a map of their own, dtype of `places`.

    Beyond the outermost centres a map goes on as it is there.

    Args:
        maps: (B, K, C, H, W).
        image: (N,) position in the batch.
        places: (N, K, 2) x and y in cells, of which the first spans 0 to 1.
    """
    height, width = maps.shape[3:]
    # What is no number reads some value: whoever asked keeps that it was none.
    x = (places[..., 0] - 0.5).nan_to_num().clamp(0, width - 1)
    y = (places[..., 1] - 0.5).nan_to_num().clamp(0, height - 1)
    left, top = x.long(), y.long()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    across, down = (x - left)[..., None], (y - top)[..., None]
    which = torch.arange(maps.shape[1], device=maps.device)

    def read(column: Tensor, row: Tensor) -> Tensor:
        return maps[image[:, None], which, :, row, column].to(across.dtype)

    above = torch.lerp(read(left, top), read(right, top), across)
    below = torch.lerp(read(left, bottom), read(right, bottom), across)
    return torch.lerp(above, below, down)
