"""Tags: which categories an image shows; said of it, and annotated by its objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unified.arrays import Json
from unified.canvas import Canvas
from unified.kinds.kind import Result
from unified.kinds.objects import ObjectAsk

SAID, SHOWN = 0.5, 4
"""Tags of at least this probability are written below a picture, at most so many."""


@dataclass(frozen=True)
class Tags(Result):
    """Multi-label classification of one image: `scores` (C,), one probability per category."""

    kind: ClassVar[str] = ObjectAsk.kind
    panel: ClassVar[str | None] = "objects"
    layer: ClassVar[int] = 2

    scores: Tensor

    @property
    def names(self) -> list[str]:
        """Category of each score."""
        return list(self.space.names)

    def plain(self) -> Json:
        """Category → probability, of all categories."""
        return dict(zip(self.names, [round(s, 5) for s in self.scores.tolist()], strict=True))

    def draw(self, canvas: Canvas) -> None:
        order = self.scores.argsort(descending=True)[:SHOWN].tolist()
        names, scores = self.names, self.scores.tolist()
        said = [f"{names[i]} {scores[i]:.2f}" for i in order if scores[i] >= SAID]
        canvas.below(", ".join(said) or f"no category above {SAID}")
