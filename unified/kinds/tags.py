"""Tags: which categories an image shows; said of it, and annotated by its objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unified.arrays import Json
from unified.canvas import Canvas
from unified.kinds.kind import Categories
from unified.kinds.objects import ObjectAsk

SAID, SHOWN = 0.5, 4
"""Tags of at least this probability are written below a picture, at most so many."""


@dataclass(frozen=True)
class Tags:
    """Multi-label classification of one image: `scores` (C,), one probability per category."""

    kind: ClassVar[str] = ObjectAsk.kind
    panel: ClassVar[str | None] = "objects"
    layer: ClassVar[int] = 2

    scores: Tensor

    def plain(self, space: Categories, min_score: float) -> Json:
        """Category → probability, of all categories."""
        return dict(zip(space.names, [round(s, 5) for s in self.scores.tolist()], strict=True))

    def draw(self, canvas: Canvas, space: Categories, min_score: float) -> None:
        order = self.scores.argsort(descending=True)[:SHOWN].tolist()
        said = [
            f"{space.names[i]} {float(self.scores[i]):.2f}" for i in order if self.scores[i] >= SAID
        ]
        canvas.below(", ".join(said) or f"no category above {SAID}")
