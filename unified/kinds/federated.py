"""Federated labels: objects of many categories, of which each image is searched for a few only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from unified.arrays import Array
from unified.kinds.kind import Ask, Categories, FlatTargets, known_rows
from unified.kinds.objects import Detections, image_of_rows
from unified.view import View

Frequency = Literal["r", "c", "f"]
"""Rare (in up to 10 training images), common (up to 100) or frequent."""


@dataclass(frozen=True)
class FederatedSpace(Categories):
    """Categories, and how many training images each one is in."""

    frequency: tuple[Frequency, ...]


@dataclass(frozen=True)
class FederatedLabel:
    """What is known of one image (Gupta et al. 2019, LVIS, section 3).

    A row says one of two things: an object fills the box, or every object of the category within
    the box is annotated, where there may be none. Of all other categories nothing is known.

    Attributes:
        boxes: (N, 4) float32 `x1 y1 x2 y2`.
        labels: (N,) int64 class indices.
        complete: (N,) bool, which of the two.
    """

    boxes: Array
    labels: Array
    complete: Array

    def __len__(self) -> int:
        return len(self.labels)

    def seen(self, view: View, ask: FederatedAsk) -> FederatedLabel:
        moved = np.where(self.complete[:, None], _within(self.boxes, view), view.boxes(self.boxes))
        clipped, keep = view.clip(moved.astype(np.float32))
        keep |= self.complete & (clipped[:, 2:] > clipped[:, :2]).all(1)
        return FederatedLabel(clipped[keep], self.labels[keep], self.complete[keep])

    @classmethod
    def joined(cls, parts: Sequence[FederatedLabel]) -> FederatedLabel:
        """Each part's rows speak of their own place in the input."""
        return cls(
            boxes=np.concatenate([p.boxes for p in parts]),
            labels=np.concatenate([p.labels for p in parts]),
            complete=np.concatenate([p.complete for p in parts]),
        )

    @classmethod
    def batched(
        cls, rows: Sequence[FederatedLabel | None], ask: FederatedAsk, size: int
    ) -> FederatedTargets:
        nothing = cls(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
        whole = cls.joined([nothing, *(row for row in rows if row is not None)])
        return FederatedTargets(
            known=known_rows(rows),
            image=image_of_rows(rows),
            boxes=torch.from_numpy(whole.boxes),
            labels=torch.from_numpy(whole.labels),
            complete=torch.from_numpy(whole.complete),
        )


def _within(boxes: Array, view: View) -> Array:
    """(N, 4) boxes that lie within the moved ones, also where these are turned.

    They are the hulls of the moved boxes, shrunk until their corners, moved back, lie inside.
    """
    linear = np.abs(view.matrix[:, :2])
    centre = view.points((boxes[:, :2] + boxes[:, 2:]) / 2)
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    hull = half @ linear.T
    reach = hull @ np.abs(np.linalg.inv(view.matrix[:, :2])).T
    hull *= (half / reach.clip(1e-9)).min(1, keepdims=True).clip(max=1)
    return np.concatenate([centre - hull, centre + hull], 1)


@dataclass
class FederatedTargets(FlatTargets):
    """What is known of B inputs: M rows, as `FederatedLabel` has them.

    Attributes:
        boxes: (M, 4) float32 in input pixels.
        labels: (M,) int64.
        complete: (M,) bool.
    """

    boxes: Tensor
    labels: Tensor
    complete: Tensor

    def shown(self, row: int) -> Recognitions:
        own = (self.image == row) & ~self.complete
        boxes = self.boxes[own]
        return Recognitions(boxes, torch.ones(len(boxes)), self.labels[own])


@dataclass(frozen=True)
class FederatedAsk(Ask):
    """Objects, and which categories are known to have no others."""

    kind = "federated"
    seen = FederatedLabel
    space = FederatedSpace


@dataclass(frozen=True)
class Recognitions(Detections):
    """Objects of the federated categories, best first."""

    kind: ClassVar[str] = FederatedAsk.kind
    panel: ClassVar[str | None] = "federated"
