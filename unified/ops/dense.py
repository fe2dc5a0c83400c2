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
from unified.ops.matching import LevelMatch
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
        """Read (K, C) vectors, float32, from per-level maps (B, A, C, H, W)."""
        first = maps[self.levels[0]]
        out = first.new_zeros(len(self.image), first.shape[2], dtype=torch.float32)
        for index, name in enumerate(self.levels):
            rows = (self.level == index).nonzero().squeeze(1)
            # Advanced indices around a slice put the gathered axis first: (k, C).
            place = self.image[rows], self.anchor[rows], slice(None), self.y[rows], self.x[rows]
            out[rows] = maps[name][place].float()
        return out


@dataclass(frozen=True)
class Matches(Publication):
    """In a loss: which anchors are responsible for which object, a row of the targets."""

    same_rows = True

    cells: Cells
    target: Tensor

    @classmethod
    def of_levels(
        cls, found: Sequence[LevelMatch], rows: Tensor, levels: tuple[str, ...]
    ) -> Matches:
        """Matches per level as one list; `rows` (M,) are the targets that were matched."""
        level = [torch.full_like(match.image, i) for i, match in enumerate(found)]
        cells = Cells(
            image=torch.cat([match.image for match in found]),
            level=torch.cat(level),
            anchor=torch.cat([match.anchor for match in found]),
            y=torch.cat([match.y for match in found]),
            x=torch.cat([match.x for match in found]),
            levels=levels,
        )
        return cls(cells, rows[torch.cat([match.target for match in found])])


@dataclass(frozen=True)
class DenseBoxes(Publication):
    """Of outputs: a box at every anchor, of whatever category.

    Attributes:
        raw: per level (B, A, H, W, 4 or more), of which the first four are the box's.
        anchors: (levels, A, 2) in input pixels.
        strides: input pixels per cell.
    """

    same_rows = True

    raw: Sequence[Tensor]
    anchors: Tensor
    strides: Sequence[int]

    def at(self, level: int, match: LevelMatch) -> Tensor:
        """(K, 4) boxes in input pixels, at the anchors of some matches."""
        chosen = self.raw[level][match.image, match.anchor, match.y, match.x]
        grid = torch.stack([match.x, match.y], 1)
        return decode_boxes(
            chosen[:, :4], grid, self.anchors[level][match.anchor], self.strides[level]
        )

    def per_cell(self, level: int, which: Tensor) -> Tensor:
        """(B, H·W, 4) boxes in input pixels, of the anchor (B, H, W) chosen in each cell."""
        raw = self.raw[level][..., :4]
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


def candidates(
    raw: Sequence[Tensor], anchors: Tensor, strides: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (B, N, 4), scores (B, N, C) and cells (N, 4) as level, anchor, y, x.

    Args:
        raw: per level (B, A, H, W, 5 + C): box, objectness, classes.
        anchors: (levels, A, 2) in input pixels.
        strides: input pixels per cell.
    """
    boxes, scores, cells = [], [], []
    for index, level in enumerate(raw):
        b, a, h, w, _ = level.shape
        anchor, y, x = torch.meshgrid(
            *(torch.arange(n, device=level.device) for n in (a, h, w)), indexing="ij"
        )
        sizes = anchors[index].view(1, a, 1, 1, 2)
        decoded = decode_boxes(level[..., :4], torch.stack([x, y], -1), sizes, strides[index])
        boxes.append(decoded.reshape(b, -1, 4))
        score = level[..., 4:5].float().sigmoid() * level[..., 5:].float().sigmoid()
        scores.append(score.reshape(b, -1, score.shape[-1]))
        place = torch.stack([torch.full_like(y, index), anchor, y, x], -1)
        cells.append(place.reshape(-1, 4))
    return torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(cells)


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
