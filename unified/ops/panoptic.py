"""Instances and pixel classes fused to one segment per pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from unified.ops.pixels import at_original
from unified.view import ImageMeta

NEVER = -1e9


def fuse_segments(
    logits: Tensor,
    masks: Tensor,
    boxes: Tensor,
    labels: Tensor,
    things: Tensor,
    stride: int,
    meta: ImageMeta,
    min_visible: float,
    min_stuff: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Panoptic segments of one image.

    At every original pixel the best detection whose mask covers it is the candidate. It gets
    the pixel if mask and pixel logits together say thing rather than the best kind of stuff
    (compare Xiong et al. 2019, UPSNet, section 3.3). Where no instance is left, the pixel is
    stuff if stuff is the best class, else of no segment.

    Args:
        logits: (C, h, w) log probabilities of the panoptic classes.
        masks: (N, h, w) mask logits.
        boxes: (N, 4) in original pixels, best first.
        labels: (N,) panoptic classes.
        things: (C,) bool.
        stride: input pixels per cell of logits and masks.
        meta: of the input.
        min_visible: share of its mask that an instance must get.
        min_stuff: smallest stuff segment as a share of the image.

    Returns:
        Segments (H, W) int32, of which 0 is none and k belongs to row k − 1 of the others; labels
        (S,); instance (S,), the row of `boxes` that a segment is, -1 for stuff.
    """
    classes, count = logits.shape[0], masks.shape[0]
    areas = torch.zeros(count + 1, dtype=torch.long, device=logits.device)
    kind = things[:, None, None]

    def assign(strip: Tensor, top: int) -> Tensor:
        """(C + N, rows, W) → (2, rows, W): instance from 1 or 0, kind of stuff from 1 or 0."""
        pixels, shapes = strip[:classes], strip[classes:]
        stuff, best = pixels.masked_fill(kind, NEVER).max(0)
        margin = pixels.masked_fill(~kind, NEVER).amax(0) - stuff
        ground = torch.where(margin < 0, best + 1, 0)
        if not count:
            return torch.stack([torch.zeros_like(ground), ground])
        covers = (shapes > 0) & _inside(boxes, top, *strip.shape[1:])
        areas[1:] += covers.sum((1, 2))
        first = covers.int().argmax(0, keepdim=True)
        owned = covers.any(0) & (shapes.gather(0, first)[0] + margin > 0)
        return torch.stack([torch.where(owned, first[0] + 1, 0), ground])

    owner, ground = at_original(torch.cat([logits, masks]), stride, meta, assign)
    visible = torch.bincount(owner.flatten(), minlength=count + 1)
    kept = (visible > min_visible * areas) & (areas > 0)
    kept[0] = False
    segments = _number(kept, 0)[owner]
    ground = torch.where(segments == 0, ground, 0)
    sizes = torch.bincount(ground.flatten(), minlength=classes + 1)
    large = (sizes >= min_stuff * meta.height * meta.width) & (sizes > 0)
    large[0] = False
    segments = segments + _number(large, int(kept.sum()))[ground]
    kinds = large[1:].nonzero().squeeze(1)
    instances = kept[1:].nonzero().squeeze(1)
    return (
        segments.int(),
        torch.cat([labels[instances], kinds]),
        torch.cat([instances, torch.full_like(kinds, -1)]),
    )


def _inside(boxes: Tensor, top: int, rows: int, width: int) -> Tensor:
    """(N, rows, W) pixels whose centres lie in the boxes; the strip begins at row `top`."""
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(rows, device=boxes.device) + (top + 0.5)
    across = (x >= boxes[:, 0:1]) & (x < boxes[:, 2:3])
    down = (y >= boxes[:, 1:2]) & (y < boxes[:, 3:4])
    return down[:, :, None] & across[:, None, :]


def _number(chosen: Tensor, start: int) -> Tensor:
    """start + 1, start + 2, … where chosen, else 0."""
    return torch.where(chosen, chosen.cumsum(0) + start, 0)
