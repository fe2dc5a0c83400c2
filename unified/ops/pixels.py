"""Per-pixel classes: losses over a map, and the map at the size of the original image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from unified.arrays import IGNORE
from unified.task import Losses, Mean, Publication
from unified.view import ImageMeta


@dataclass(frozen=True)
class PixelLogits(Publication):
    """In decoding: (B, C, h, w) logits of pixel classes, `stride` input pixels per cell."""

    logits: Tensor
    stride: int


PixelLoss = Literal["cross_entropy", "focal"]


def focus_of(loss_kind: PixelLoss, gamma: float) -> float:
    """The exponent of `pixel_loss` that a configured kind of loss stands for."""
    return gamma if loss_kind == "focal" else 0.0


def segmentation_losses(logits: Tensor, classes: Tensor, gamma: float) -> Losses:
    """`pixel` and `dice` of class logits."""
    return {"pixel": pixel_loss(logits, classes, gamma), "dice": dice_loss(logits, classes)}


def pixel_loss(logits: Tensor, classes: Tensor, gamma: float = 0.0) -> Mean:
    """Cross-entropy of labelled pixels, focused by (1 − p)^gamma (Lin et al. 2017).

    Args:
        logits: (B, C, H, W).
        classes: (B, H, W) uint8 indices, `IGNORE` where unknown.
        gamma: 0 is plain cross-entropy.
    """
    goal = classes.long()
    losses = F.cross_entropy(logits.float(), goal, ignore_index=IGNORE, reduction="none")
    if gamma:
        losses = losses * (1 - (-losses).exp()) ** gamma
    return Mean(losses.sum(), (goal != IGNORE).sum())


def dice_loss(logits: Tensor, classes: Tensor) -> Mean:
    """1 − Dice of every class that occurs in an image (Milletari et al. 2016, section 3).

    Counted per image, so that the loss of a batch is the mean of its parts' losses.

    Args:
        logits: (B, C, H, W).
        classes: (B, H, W) uint8 indices, `IGNORE` where unknown.
    """
    shares = logits.float().softmax(1)
    known = (classes != IGNORE).to(shares.dtype)  # (B, H, W)
    goal = torch.where(classes != IGNORE, classes, 0).long().flatten(1)  # (B, HW)
    own = shares.flatten(2).gather(1, goal[:, None])[:, 0] * known.flatten(1)
    nothing = shares.new_zeros(shares.shape[:2])
    overlap = nothing.scatter_add(1, goal, own)  # (B, C)
    present = nothing.scatter_add(1, goal, known.flatten(1))
    squares = (shares.square() * known[:, None]).sum((2, 3))
    dice = (2 * overlap + 1) / (squares + present + 1)
    occurs = (present > 0).to(shares.dtype)
    return Mean(((1 - dice) * occurs).sum(), occurs.sum())


def classes_at_original(logits: Tensor, stride: int, meta: ImageMeta) -> Tensor:
    """(C, h, w) logits of one letterboxed input → (H, W) uint8 classes of the original image."""
    return at_original(logits, stride, meta, lambda strip, top: strip.argmax(0).to(torch.uint8))


def at_original(
    maps: Tensor, stride: int, meta: ImageMeta, reduce: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """Sample maps at every original pixel and reduce them there.

    Sampling is bilinear at the pixels' centres, so that borders do not inherit the steps of the
    maps; rows are taken in strips to bound the memory.

    Args:
        maps: (C, h, w) of one letterboxed input.
        stride: input pixels per cell.
        meta: of the input.
        reduce: sampled (C, rows, W) and the number of the first row → (…, rows, W).

    Returns:
        (…, H, W).
    """
    matrix = torch.as_tensor(meta.transform, dtype=torch.float32, device=maps.device)
    size = torch.tensor(maps.shape[:0:-1], device=maps.device) * stride  # width, height
    pixel = torch.arange(meta.width, device=maps.device) + 0.5
    x = (pixel * matrix[0, 0] + matrix[0, 2]) / size[0] * 2 - 1
    pixel = torch.arange(meta.height, device=maps.device) + 0.5
    y = (pixel * matrix[1, 1] + matrix[1, 2]) / size[1] * 2 - 1
    strips, top = [], 0
    for rows in torch.split(y, max(1, STRIP // (meta.width * len(maps)))):
        grid = torch.stack(torch.meshgrid(x, rows, indexing="xy"), -1)[None]
        sampled = F.grid_sample(
            maps[None].float(), grid, padding_mode="border", align_corners=False
        )
        strips.append(reduce(sampled[0], top))
        top += len(rows)
    return torch.cat(strips, -2)


STRIP = 16_000_000
"""Numbers sampled at once, 64 MB."""
