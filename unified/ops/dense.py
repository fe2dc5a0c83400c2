"""Dense anchor-based prediction: who is responsible for a box, and which predictions survive.

Detection works with it, and any other head that predicts at anchors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from unified.ops.boxes import decode_boxes
from unified.task import Publication


@dataclass(frozen=True)
class Anchors(Publication):
    """When building: at which cells and how often per cell there are predictions.

    Attributes:
        levels: names of the pyramid's levels, finest first.
        per_cell: anchors per cell.
    """

    levels: tuple[str, ...]
    per_cell: int


@dataclass(frozen=True)
class Cells:
    """K anchors in the feature pyramid.

    Attributes:
        image, level, anchor, y, x: (K,) int64; `level` indexes `levels`.
        levels: level names, finest first.
    """

    image: Tensor
    level: Tensor
    anchor: Tensor
    y: Tensor
    x: Tensor
    levels: tuple[str, ...]

    def of(self, rows: Tensor) -> Cells:
        """Some of them."""
        return Cells(
            self.image[rows], self.level[rows], self.anchor[rows], self.y[rows], self.x[rows],
            self.levels,
        )  # fmt: skip

    def gather(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Read (K, C) vectors, float32, from per-level maps (B, A, H, W, C)."""
        # Every level is read at all of them: which are its own only the device knows.
        first, *others = (maps[name][self._within(maps[name])].float() for name in self.levels)
        for index, found in enumerate(others, 1):
            first = torch.where((self.level == index)[:, None], found, first)
        return first

    def spread(self, values: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The largest of (K,) values at every anchor, 0 where none is larger.

        Args:
            values: one per cell.
            maps: level → (B, A, H, W, …), which say how large the level is.

        Returns:
            Level → (B, A, H, W), float32.
        """
        spread = {}
        for index, name in enumerate(self.levels):
            out = values.new_zeros(maps[name].shape[:4])
            place = _ravel(self._within(maps[name]), out.shape)
            own = torch.where(self.level == index, values, 0.0)
            out.view(-1).scatter_reduce_(0, place, own, "amax")
            spread[name] = out
        return spread

    def per_level(self, values: Tensor) -> Tensor:
        """(levels,) sums of (K,) values."""
        return values.new_zeros(len(self.levels)).index_add(0, self.level, values)

    def flat(self, maps: Mapping[str, Tensor]) -> Tensor:
        """(K,) number of the cell among those of all levels (B, A, H, W, …), row by row."""
        number, start = torch.zeros_like(self.x), 0
        for index, name in enumerate(self.levels):
            height, width = maps[name].shape[2:4]
            own = start + self.y * width + self.x
            number = torch.where(self.level == index, own, number)
            start += height * width
        return number

    def _within(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Places in a level (B, A, H, W, …); those of other levels are moved into it."""
        height, width = level.shape[2:4]
        return self.image, self.anchor, self.y.clamp(max=height - 1), self.x.clamp(max=width - 1)


@dataclass(frozen=True)
class Matches(Publication):
    """In a loss: which anchors are responsible for which object, a row of the targets."""

    same_rows = True

    cells: Cells
    target: Tensor


@dataclass(frozen=True)
class DenseBoxes(Publication):
    """Of outputs: a box at every anchor, of whatever category.

    Attributes:
        raw: level → (B, A, H, W, 4 or more), of which the first four are the box's.
        anchors: (levels, A, 2) in input pixels.
        strides: (levels,) input pixels per cell.
    """

    same_rows = True

    raw: Mapping[str, Tensor]
    anchors: Tensor
    strides: Tensor

    def decode(self, chosen: Tensor, cells: Cells) -> Tensor:
        """(K, 4) boxes in input pixels, of what is said of them at some cells, (K, 4 or more)."""
        grid = torch.stack([cells.x, cells.y], 1)
        sizes = self.anchors[cells.level, cells.anchor]
        return decode_boxes(chosen[:, :4], grid, sizes, self.strides[cells.level, None])

    def per_cell(self, level: int, which: Tensor) -> Tensor:
        """(B, H·W, 4) boxes in input pixels, of the anchor (B, H, W) chosen in each cell."""
        raw = list(self.raw.values())[level][..., :4]
        y, x = torch.meshgrid(
            *(torch.arange(n, device=raw.device) for n in which.shape[1:]), indexing="ij"
        )
        chosen = raw.gather(1, which[:, None, ..., None].expand(-1, -1, -1, -1, 4))[:, 0]
        grid, sizes = torch.stack([x, y], -1), self.anchors[level][which]
        return decode_boxes(chosen, grid, sizes, self.strides[level]).flatten(1, 2)


@dataclass(frozen=True)
class Kept(Publication):
    """In decoding: the predictions that survived, flat over the batch, best first per image.

    Attributes:
        boxes: (K, 4) in input pixels.
        scores, labels: (K,).
        cells: where they were predicted.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    cells: Cells


def per_anchor(output: Tensor, per_cell: int) -> Tensor:
    """(B, A·C, H, W) → (B, A, H, W, C)."""
    b, _, h, w = output.shape
    return output.view(b, per_cell, -1, h, w).permute(0, 1, 3, 4, 2)


def candidates(dense: DenseBoxes) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (B, N, 4), scores (B, N, C) and cells (N, 4) as level, anchor, y, x.

    Args:
        dense: of which each anchor says box, objectness and classes, 5 + C.
    """
    boxes, scores, cells = [], [], []
    for index, level in enumerate(dense.raw.values()):
        b, a, h, w, _ = level.shape
        anchor, y, x = torch.meshgrid(
            *(torch.arange(n, device=level.device) for n in (a, h, w)), indexing="ij"
        )
        sizes = dense.anchors[index].view(1, a, 1, 1, 2)
        grid = torch.stack([x, y], -1)
        decoded = decode_boxes(level[..., :4], grid, sizes, dense.strides[index])
        boxes.append(decoded.reshape(b, -1, 4))
        score = level[..., 4:5].float().sigmoid() * level[..., 5:].float().sigmoid()
        scores.append(score.reshape(b, -1, score.shape[-1]))
        place = torch.stack([torch.full_like(y, index), anchor, y, x], -1)
        cells.append(place.reshape(-1, 4))
    return torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(cells)


def _ravel(place: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Flat indices of multi-dimensional ones."""
    flat = place[0]
    for index, size in zip(place[1:], shape[1:], strict=True):
        flat = flat * size + index
    return flat


@dataclass(frozen=True)
class Suppression:
    """Which candidates survive: a threshold, a limit before and one after suppression."""

    min_score: float
    max_candidates: int
    nms_iou: float
    max_detections: int

    def keep(self, boxes: Tensor, scores: Tensor, cells: Tensor, levels: tuple[str, ...]) -> Kept:
        """The best of `candidates`, with non-maximum suppression per category."""
        found = [self._one(*image) for image in zip(boxes, scores, strict=True)]
        rows = torch.cat([row for _, row, _ in found])
        image = [torch.full_like(row, i) for i, (_, row, _) in enumerate(found)]
        place = cells[rows]
        return Kept(
            boxes=boxes[torch.cat(image), rows],
            scores=torch.cat([score for score, _, _ in found]),
            labels=torch.cat([label for _, _, label in found]),
            cells=Cells(
                torch.cat(image), place[:, 0], place[:, 1], place[:, 2], place[:, 3], levels
            ),
        )

    def _one(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, candidates and labels that survive in one image."""
        flat = scores.flatten()
        best, where = flat.topk(min(self.max_candidates, len(flat)))
        where = where[best > self.min_score]
        best = best[: len(where)]
        row, label = where // scores.shape[1], where % scores.shape[1]
        order = batched_nms(boxes[row], best, label, self.nms_iou)[: self.max_detections]
        return best[order], row[order], label[order]
