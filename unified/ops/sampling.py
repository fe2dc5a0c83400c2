"""Values of maps between the centres of their cells."""

from __future__ import annotations

import torch
from torch import Tensor


def sample(maps: Tensor, image: Tensor, places: Tensor) -> Tensor:
    """(N, K, C) values at points that each have a map of their own, bilinear, float32.

    Beyond the outermost centres a map goes on as it is there.

    Args:
        maps: (B, K, C, H, W).
        image: (N,) position in the batch.
        places: (N, K, 2) x and y in cells, of which the first spans 0 to 1.
    """
    last = places.new_tensor([maps.shape[4] - 1, maps.shape[3] - 1])
    inside = (places - 0.5).clamp(min=0).minimum(last)
    low = inside.floor()
    high = (low + 1).minimum(last)
    share = inside - low
    which = torch.arange(maps.shape[1], device=maps.device)

    def read(x: Tensor, y: Tensor) -> Tensor:
        return maps[image[:, None], which, :, y.long(), x.long()].float()

    (left, top), (right, bottom) = low.unbind(-1), high.unbind(-1)
    across, down = share[..., :1], share[..., 1:]
    above = torch.lerp(read(left, top), read(right, top), across)
    below = torch.lerp(read(left, bottom), read(right, bottom), across)
    return torch.lerp(above, below, down)
