"""Vectors: who an object is; said of detections, and of annotated objects where there are any."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from unified.arrays import Json
from unified.canvas import Canvas
from unified.kinds.kind import Result
from unified.kinds.objects import ObjectAsk


@dataclass(frozen=True)
class Vectors(Result):
    """Unit vectors of one image.

    Attributes:
        vectors: (N, D), one per detection, best first.
        scores: (N,) of these detections.
        truth_vectors: (M, D), one per annotated object; empty where there is no annotation.
        truth_identities: (M,) int64.
    """

    kind: ClassVar[str] = ObjectAsk.kind
    panel: ClassVar[str | None] = None
    layer: ClassVar[int] = 0

    vectors: Tensor
    scores: Tensor
    truth_vectors: Tensor
    truth_identities: Tensor

    def above(self, min_score: float) -> Vectors:
        own = self.scores >= min_score
        return replace(self, vectors=self.vectors[own], scores=self.scores[own])

    def plain(self) -> Json:
        """The vectors of detections."""
        return [[round(v, 5) for v in row] for row in self.vectors.tolist()]

    def draw(self, canvas: Canvas) -> None:
        """Nothing: a vector is no picture."""
