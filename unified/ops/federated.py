"""What a federated loss counts: which cells are silent about which categories (LVIS)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from unified.ops.boxes import inside
from unified.ops.dense import DenseBoxes


class Searches(Protocol):
    """Categories that images were searched for, a row each, and the objects that were found.

    Attributes:
        image: (M,) position in the batch.
        labels: (M,) category.
        boxes: (M, 4) of an object, or the part of the image where there are no others.
        complete: (M,) whether the row says that; else it is an object.
    """

    @property
    def image(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def boxes(self) -> Tensor: ...
    @property
    def complete(self) -> Tensor: ...


def silent_cells(
    truth: Searches, cell: Tensor, target: Tensor, dense: DenseBoxes
) -> tuple[Tensor, Tensor]:
    """(K,) rows that say which categories have no others, and (K, cells) where they do.

    Not at cells of the category's own objects: those that match, and of an object that matches no
    anchor those within its box.

    Args:
        truth: what is known.
        cell, target: of the matches.
        dense: whose cells they are.
    """
    rows = truth.complete.nonzero().squeeze(1)
    matched = torch.zeros_like(truth.complete)
    matched[target] = True
    lost = (~truth.complete & ~matched).nonzero().squeeze(1)
    row, one = _same(truth, rows, lost)
    held = _cells_in(truth.boxes[rows], dense)
    own = torch.zeros(held.shape, device=held.device)
    own.index_add_(0, row, _cells_in(truth.boxes[lost[one]], dense).float())
    held &= own == 0
    row, match = _same(truth, rows, target)
    held[row, cell[match]] = False
    return rows, held


def _cells_in(boxes: Tensor, dense: DenseBoxes) -> Tensor:
    """(N, cells) which cells of all levels lie in each of (N, 4) boxes."""
    found = [
        inside(boxes, (raw.shape[2], raw.shape[3]), dense.strides[index]).flatten(1)
        for index, raw in enumerate(dense.raw.values())
    ]
    return torch.cat(found, 1)


def _same(truth: Searches, rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of positions in two lists of rows, (K,) and (L,), of one image and category."""
    alike = (truth.image[rows, None] == truth.image[others]) & (
        truth.labels[rows, None] == truth.labels[others]
    )
    first, second = alike.nonzero(as_tuple=True)
    return first, second


def unique_pairs(cell: Tensor, target: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Pairs of cell and target, each once: an object may match several anchors of a cell."""
    pairs = torch.unique(target * cells + cell)
    return pairs % cells, pairs // cells


def products_of_images(vectors: Tensor, weight: Tensor, image: Tensor) -> Tensor:
    """(K, cells) products of the K rows of `weight` with all vectors of their images.

    Args:
        vectors: (B, cells, R).
        weight: (K, R).
        image: (K,) rising.
    """
    counts = torch.bincount(image, minlength=len(vectors))
    place = torch.arange(len(image), device=image.device) - (counts.cumsum(0) - counts)[image]
    most = int(counts.max()) if len(image) else 0
    padded = vectors.new_zeros(len(vectors), most, weight.shape[1])
    padded[image, place] = weight.to(vectors.dtype)
    return torch.bmm(padded, vectors.transpose(1, 2))[image, place]


def best_overlaps(
    like: Tensor, image: Tensor, anchor: Tensor, cell: Tensor, losses: Tensor
) -> tuple[Tensor, Tensor]:
    """(B, A, cells) best 1 − loss of each anchor's matches, and 1 at the cells that have some.

    Args:
        like: of that shape.
        image, anchor, cell, losses: (K,) of the matches.
    """
    goal, held = torch.zeros_like(like), torch.zeros_like(like)
    place = (image * like.shape[1] + anchor) * like.shape[2] + cell
    goal.view(-1).scatter_reduce_(0, place, (1 - losses.detach()).to(goal.dtype), "amax")
    held.view(-1)[place] = 1
    return goal, held.amax(1, keepdim=True).expand_as(held)
