"""Anchors from the training boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unified.arrays import Array
from unified.errors import ConfigError, DataError


def initial_anchors(
    anchors: str | Sequence[Sequence[Sequence[float]]],
    per_level: int,
    levels: int,
    scale: float,
    sizes: Array | None,
    owner: str,
) -> Tensor:
    """Anchors as they are configured, (levels, per_level, 2) in input pixels.

    Args:
        anchors: `auto`, or sizes [width, height] per level.
        per_level, levels: how many.
        scale: input pixels per pixel of the sizes that are given.
        sizes: (N, 2) of the training boxes; None when a trained head will bring its anchors.
        owner: key of the configuration whose `anchors` these are, for errors.

    Raises:
        ConfigError: they are neither.
        DataError: there are too few boxes to choose by.
    """
    if isinstance(anchors, str):
        if anchors != "auto":
            raise ConfigError(
                f"{owner}.anchors={anchors} is unknown", "use auto or a list of sizes"
            )
        if sizes is None:
            return torch.ones(levels, per_level, 2)
        return cluster_anchors(sizes, levels, per_level, owner)
    fixed = torch.tensor([[list(pair) for pair in level] for level in anchors], dtype=torch.float32)
    if fixed.ndim != 3 or fixed.shape[0] != levels or fixed.shape[2] != 2:
        raise ConfigError(
            f"{owner}.anchors has shape {tuple(fixed.shape)}, expected ({levels}, n, 2)",
            "give for each pyramid level a list of [width, height] at 640 pixels",
        )
    if fixed.shape[1] != per_level:
        raise ConfigError(
            f"{owner}.anchors has {fixed.shape[1]} sizes per level, per_level={per_level}",
            f"set {owner}.per_level={fixed.shape[1]}",
        )
    return fixed * scale


def cluster_anchors(sizes: Array, levels: int, per_level: int, owner: str) -> Tensor:
    """k-means of box sizes in log space, so that a ratio counts the same at every scale.

    Args:
        sizes: (N, 2) widths and heights in input pixels.
        levels: pyramid levels.
        per_level: anchors per level.
        owner: key of the configuration that asks for them, for errors.

    Returns:
        (levels, per_level, 2) float32, by rising area.

    Raises:
        DataError: there are fewer boxes than anchors.
    """
    from scipy.cluster.vq import kmeans2  # half a second that prediction need not wait for

    count = levels * per_level
    usable = sizes[(sizes >= 2).all(1)]
    if len(usable) < count:
        raise DataError(
            f"{owner}.anchors=auto needs at least {count} boxes of 2 pixels or more, the training "
            f"split has {len(usable)}",
            f"set {owner}.per_level lower, give {owner}.anchors as numbers, or, where boxes are "
            "small, use a larger data.image_size",
        )
    log_sizes = np.log(usable)
    order = np.argsort(log_sizes.sum(1))
    # Start from evenly spaced quantiles of the area: no cluster starts empty.
    start = log_sizes[order[((np.arange(count) + 0.5) / count * len(order)).astype(int)]]
    centres, _ = kmeans2(log_sizes, start, iter=30, minit="matrix", missing="warn")
    anchors = np.exp(centres[np.argsort(centres.sum(1))])
    return torch.tensor(anchors, dtype=torch.float32).view(levels, per_level, 2)
