"""Instance masks: prototypes sampled on boxes for the loss, run lengths at the original size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from unified.arrays import Array
from unified.rle import Rle, as_json
from unified.task import Mean, Publication
from unified.view import ImageMeta

CHUNK = 8_000_000
"""Pixels sampled at once, a few hundred MB."""


@dataclass(frozen=True)
class MaskParts(Publication):
    """In decoding: what the masks of the kept detections are made of.

    Attributes:
        coefficients: (K, P), one row per detection.
        prototypes: (B, P, h, w).
        stride: input pixels per cell.
    """

    coefficients: Tensor
    prototypes: Tensor
    stride: int

    def logits(self, image: int, rows: Tensor) -> Tensor:
        """(N, h, w) of detections `rows` (N,), which are those of one image."""
        own = self.prototypes[image].float()
        return torch.einsum("np,phw->nhw", self.coefficients[rows], own)


def mask_loss(
    prototypes: Tensor,
    coefficients: Tensor,
    target: Tensor,
    rows: Tensor,
    boxes: Tensor,
    image: Tensor,
    masks: Tensor,
    stride: int,
    grid: int,
) -> Mean:
    """Cross-entropy of assembled masks inside of their boxes, each normalised by its area.

    A mask is the sum of prototypes weighted by an anchor's coefficients (Bolya et al. 2019,
    YOLACT, section 3). Both it and the truth are read at grid × grid points of the box, so every
    object weighs the same and the memory does not depend on sizes.

    Args:
        prototypes: (B, P, h, w).
        coefficients: (K, P), one row per matched anchor.
        target: (K,) which of the M objects each anchor is matched to.
        rows: (M,) row of the object's mask, -1 for an object without, which costs nothing.
        boxes: (M, 4) in input pixels.
        image: (M,) position in the batch.
        masks: (N, s, s) uint8 coverage, at any resolution of the same input.
        stride: input pixels per prototype cell.
        grid: points per side.
    """
    known = rows[target] >= 0
    used, row = torch.unique(target[known], return_inverse=True)
    if not len(used):
        zero = coefficients.sum() * 0.0
        return Mean(zero, zero.detach())
    corners, side = boxes[used].float(), stride * prototypes.shape[-1]

    def read(maps: Tensor, owner: Tensor) -> Tensor:
        places, scale = torch.cat([owner[:, None].float(), corners], 1), maps.shape[-1] / side
        points: Tensor = roi_align(maps.float(), places, grid, scale, 1, aligned=True)
        return points

    basis = read(prototypes, image[used]).flatten(2)  # (U, P, grid²)
    truth = read(masks[rows[used], None].float() / 255, torch.arange(len(used), device=used.device))
    # One slot per anchor of each object: a product of small matrices instead of a copy of the
    # prototypes per anchor.
    slot = _position_in_group(row)
    slots = basis.new_zeros(len(used), int(slot.max()) + 1, basis.shape[1])
    slots = slots.index_put((row, slot), coefficients[known].to(slots.dtype))
    logits = torch.bmm(slots, basis)[row, slot]
    goal = truth.flatten(1)[row]
    total = F.binary_cross_entropy_with_logits(logits, goal, reduction="sum")
    return Mean(total, total.new_full((), goal.numel()))


def _position_in_group(group: Tensor) -> Tensor:
    """(K,) how many earlier rows have the same (K,) group number."""
    order = group.argsort(stable=True)
    counts = torch.bincount(group)
    position = torch.empty_like(group)
    position[order] = _ramps(counts)
    return position


def encode_inside(logits: Tensor, boxes: Tensor, stride: int, meta: ImageMeta) -> list[Rle]:
    """Masks where logits are positive inside of boxes, at the original size, as COCO's RLE.

    Only the pixels of the boxes are sampled, bilinearly, all objects together.

    Args:
        logits: (N, h, w) of one letterboxed input.
        boxes: (N, 4) in original pixels; a pixel belongs to a box if its centre does.
        stride: input pixels per cell.
        meta: of the input.
    """
    size = boxes.new_tensor([meta.width, meta.height])
    low = (boxes[:, :2] - 0.5).ceil().clamp(min=0).minimum(size).long()
    high = (boxes[:, 2:] - 0.5).ceil().clamp(min=0).minimum(size).long()
    sides = (high - low).clamp(min=0)
    parts = []
    for begin, end in _chunks(sides.prod(1).cpu().numpy()):
        rows = slice(begin, end)
        owner, place = _positive_pixels(logits[rows], low[rows], sides[rows], stride, meta)
        parts.append(np.stack([owner.cpu().numpy() + begin, place.cpu().numpy()]))
    pixels = np.concatenate(parts, 1) if parts else np.zeros((2, 0), np.int64)
    return _run_lengths(pixels[0], pixels[1], len(logits), meta)


def _chunks(areas: Array) -> Iterator[tuple[int, int]]:
    """Ranges of objects of at most `CHUNK` pixels together, at least one object each."""
    begin, total = 0, 0
    for end, area in enumerate(areas.tolist()):
        if total + area > CHUNK and end > begin:
            yield begin, end
            begin, total = end, 0
        total += area
    if len(areas):
        yield begin, len(areas)


def _positive_pixels(
    logits: Tensor, low: Tensor, sides: Tensor, stride: int, meta: ImageMeta
) -> tuple[Tensor, Tensor]:
    """Owner and place of the pixels of N boxes that are on, column by column as COCO counts.

    What depends on the row or the column alone is computed once per row or column.
    """
    _, height, width = logits.shape
    count = torch.arange(len(logits), device=logits.device)
    left, along = _cells(meta.width, meta.transform[0, [0, 2]] / stride, width, logits.device)
    top, down = _cells(meta.height, meta.transform[1, [1, 2]] / stride, height, logits.device)
    # One entry per column of each box …
    owner = torch.repeat_interleave(count, sides[:, 0])
    x = _ramps(sides[:, 0]) + low[owner, 0]
    corner = owner * (height * width) + left[x]
    # … and one per pixel of each column.
    lengths = sides[owner, 1]
    column = torch.repeat_interleave(torch.arange(len(x), device=x.device), lengths)
    y = _ramps(lengths) + low[owner, 1][column]
    place = corner[column] + (top * width)[y]
    flat, share = logits.float().reshape(-1), along[x][column]
    above = torch.lerp(flat[place], flat[place + 1], share)
    place += width
    below = torch.lerp(flat[place], flat[place + 1], share)
    on = (torch.lerp(above, below, down[y]) > 0).nonzero().squeeze(1)
    chosen = column[on]
    return owner[chosen], x[chosen] * meta.height + y[on]


def _cells(pixels: int, affine: Array, cells: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For the centre of every pixel of an axis: the map cell before it, and how far beyond."""
    centre = (torch.arange(pixels, device=device) + 0.5) * affine[0] + affine[1] - 0.5
    centre = centre.clamp(0, cells - 1)
    before = centre.floor().clamp(max=cells - 2)
    return before.long(), (centre - before).float()


def _ramps(lengths: Tensor) -> Tensor:
    """0 … n − 1 for every n of (N,) lengths, one after the other."""
    ends = lengths.cumsum(0)
    starts = torch.repeat_interleave(ends - lengths, lengths)
    return torch.arange(len(starts), device=lengths.device) - starts


def _run_lengths(owner: Array, place: Array, count: int, meta: ImageMeta) -> list[Rle]:
    """COCO's compressed RLE of `count` masks from their pixels in column-major order.

    Args:
        owner: (T,) which mask a pixel belongs to, rising.
        place: (T,) its place in the image counted column by column, rising per owner.
    """
    if not count:
        return []
    starts = np.flatnonzero((np.diff(place, prepend=-2) != 1) | (np.diff(owner, prepend=-1) != 0))
    lengths = np.diff(np.append(starts, len(place)))
    whose, begins = owner[starts], place[starts]
    ends = begins + lengths
    gaps = begins - np.where(np.diff(whose, prepend=-1) != 0, 0, np.append(0, ends)[: len(ends)])
    counts = np.column_stack([gaps, lengths]).ravel()
    first = np.searchsorted(whose, np.arange(count + 1))
    total = meta.height * meta.width
    size = [meta.height, meta.width]
    masks = []
    for begin, end in zip(first[:-1].tolist(), first[1:].tolist(), strict=True):
        own = counts[2 * begin : 2 * end].tolist()
        masks.append({"size": size, "counts": [*own, total - (int(ends[end - 1]) if own else 0)]})
    packed = coco_mask.frPyObjects(masks, *size)
    return [as_json(rle) for rle in packed]
