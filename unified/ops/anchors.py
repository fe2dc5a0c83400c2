"""Anchors from the training boxes."""

from __future__ import annotations

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from unified.errors import DataError
from unified.specs import Array


def cluster_anchors(sizes: Array, levels: int, per_level: int) -> Tensor:
    """k-means of box sizes in log space, so that a ratio counts the same at every scale.

    Args:
        sizes: (N, 2) widths and heights in input pixels.
        levels: pyramid levels.
        per_level: anchors per level.

    Returns:
        (levels, per_level, 2) float32, by rising area.

    Raises:
        DataError: there are fewer boxes than anchors.
    """
    count = levels * per_level
    usable = sizes[(sizes >= 2).all(1)]
    if len(usable) < count:
        raise DataError(
            f"anchors=auto needs at least {count} boxes of 2 pixels or more, the training split "
            f"has {len(usable)}",
            "give task.detection.anchors as numbers, or use a larger data.image_size",
        )
    log_sizes = np.log(usable)
    order = np.argsort(log_sizes.sum(1))
    # Start from evenly spaced quantiles of the area: no cluster starts empty.
    start = log_sizes[order[((np.arange(count) + 0.5) / count * len(order)).astype(int)]]
    centres, _ = kmeans2(log_sizes, start, iter=30, minit="matrix", missing="warn")
    anchors = np.exp(centres[np.argsort(centres.sum(1))])
    return torch.tensor(anchors, dtype=torch.float32).view(levels, per_level, 2)


def best_ratio(sizes: Array, anchors: Tensor) -> Array:
    """(N,) worst side ratio of each box to its best anchor; below the matching limit is good."""
    flat = anchors.view(-1, 2).numpy()
    ratio = sizes[:, None] / flat[None]
    worst: Array = np.maximum(ratio, 1 / ratio).max(2).min(1)
    return worst
