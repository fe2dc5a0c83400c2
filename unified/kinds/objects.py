"""Objects: boxes with a category, some of them crowds, some of them known individuals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from unified.arrays import Array, Json
from unified.canvas import Canvas
from unified.kinds.kind import Ask, Categories, FlatTargets, Result, Source, known_rows
from unified.kinds.outlines import Outlines
from unified.view import View

MOST = 1 << 20
"""More objects than one image has: keys of the parts of a joined label lie this far apart."""


@dataclass(frozen=True)
class ObjectSpace(Categories):
    """Categories, and whether annotations name individuals across images."""

    identified: bool = False


@dataclass(frozen=True)
class ObjectLabel:
    """The annotated objects of one image; every array has N rows.

    Attributes:
        boxes: (N, 4) float32 `x1 y1 x2 y2`.
        labels: (N,) int64 class indices.
        crowd: (N,) bool, a region of uncounted objects.
        identities: (N,) int64 individuals; the annotation's id where none is given.
        keys: (N,) int64 which object of the image it is: the same in every kind of knowledge about
            the objects of an image.
        outlines: polygons, where there are any, for tight boxes when the image is rotated.
    """

    boxes: Array
    labels: Array
    crowd: Array
    identities: Array
    keys: Array
    outlines: Outlines | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def seen(self, view: View, ask: Ask) -> ObjectLabel:
        moved = view.boxes(self.boxes)
        if view.rotated and self.outlines is not None:
            moved = self.outlines.seen(view).hulls(moved)
        clipped, keep = view.clip(moved)
        return ObjectLabel(
            clipped[keep], self.labels[keep], self.crowd[keep], self.identities[keep],
            self.keys[keep],
        )  # fmt: skip

    def countable(self) -> ObjectLabel:
        """Without crowds, which no evaluator asks for."""
        keep = ~self.crowd
        return ObjectLabel(
            self.boxes[keep], self.labels[keep], self.crowd[keep], self.identities[keep],
            self.keys[keep],
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: Sequence[ObjectLabel]) -> ObjectLabel:
        return cls(
            boxes=np.concatenate([p.boxes for p in parts]),
            labels=np.concatenate([p.labels for p in parts]),
            crowd=np.concatenate([p.crowd for p in parts]),
            identities=np.concatenate([p.identities for p in parts]),
            keys=join_keys([p.keys for p in parts]),
        )

    @classmethod
    def batched(cls, rows: Sequence[ObjectLabel | None], ask: Ask, size: int) -> ObjectTargets:
        known = [row for row in rows if row is not None]

        def flat(name: str, dtype: torch.dtype, *shape: int) -> Tensor:
            if not known:
                return torch.zeros((0, *shape), dtype=dtype)
            return torch.from_numpy(np.concatenate([getattr(k, name) for k in known])).to(dtype)

        return ObjectTargets(
            known=known_rows(rows),
            image=image_of_rows(rows),
            boxes=flat("boxes", torch.float32, 4),
            labels=flat("labels", torch.int64),
            crowd=flat("crowd", torch.bool),
            identities=flat("identities", torch.int64),
            keys=flat("keys", torch.int64),
        )


@dataclass
class ObjectTargets(FlatTargets):
    """Objects of B inputs: M rows.

    Attributes:
        boxes: (M, 4) float32 in input pixels.
        labels: (M,) int64.
        crowd: (M,) bool.
        identities: (M,) int64.
        keys: (M,) int64, unique within an input.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    identities: Tensor
    keys: Tensor

    def shown(self, row: int) -> Detections | None:
        own = (self.image == row) & ~self.crowd
        boxes = self.boxes[own]
        return Detections(boxes, torch.ones(len(boxes)), self.labels[own])


@dataclass(frozen=True)
class ObjectAsk(Ask):
    """Boxes, categories, crowds and identities."""

    kind = "objects"
    seen = ObjectLabel
    space = ObjectSpace


class ObjectSource(Source, Protocol):
    """A source of objects also knows all boxes at once."""

    space: ObjectSpace

    def read(self, index: int) -> ObjectLabel: ...

    def sizes(self, side: int) -> Array:
        """(A, 2) widths and heights of the countable boxes, in letterboxed inputs of `side`."""
        ...


@dataclass(frozen=True)
class Detections(Result):
    """Objects of one image, best first.

    Attributes:
        boxes: (N, 4) in original pixels.
        scores: (N,).
        labels: (N,) int64 class indices.
    """

    kind: ClassVar[str] = ObjectAsk.kind
    panel: ClassVar[str | None] = "objects"
    layer: ClassVar[int] = 1

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    @property
    def names(self) -> list[str]:
        """Category of each object."""
        return [self.space.names[label] for label in self.labels.tolist()]

    def above(self, min_score: float) -> Detections:
        own = self.scores >= min_score
        return replace(
            self, boxes=self.boxes[own], scores=self.scores[own], labels=self.labels[own]
        )

    def plain(self) -> Json:
        """category, score and box of each."""
        rows = zip(self.names, self.scores.tolist(), self.boxes.tolist(), strict=True)
        return [
            {"category": name, "score": round(score, 5), "box": [round(v, 2) for v in box]}
            for name, score, box in rows
        ]

    def draw(self, canvas: Canvas) -> None:
        scores = zip(self.names, self.scores.tolist(), strict=True)
        captions = [f"{name} {score:.2f}" for name, score in scores]
        canvas.boxes(self.boxes.cpu().numpy(), self.labels.tolist(), captions)


def image_of_rows(rows: Sequence[Any]) -> Tensor:
    """(M,) position of the row that each of its things belongs to."""
    counts = torch.tensor([0 if row is None else len(row) for row in rows], dtype=torch.long)
    return torch.repeat_interleave(torch.arange(len(rows)), counts)


def join_keys(parts: Sequence[Array]) -> Array:
    """Keys of the objects of several images, which stay different."""
    return np.concatenate([keys + part * MOST for part, keys in enumerate(parts)])


def find_objects(objects: ObjectTargets, image: Tensor, keys: Tensor) -> Tensor:
    """(M,) row among things (image, keys), (K,), that is about each object; -1 where none is."""
    if not len(keys):
        return torch.full_like(objects.image, -1)
    ours, theirs = (i * (MOST << 8) + k for i, k in ((objects.image, objects.keys), (image, keys)))
    order = theirs.argsort()
    place = torch.searchsorted(theirs[order], ours).clamp(max=len(keys) - 1)
    rows = order[place]
    return torch.where(theirs[rows] == ours, rows, -1)
