"""Which codes a run has: the typed part `implicit` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

Align = Literal["none", "add", "mul", "affine", "rotate", "concat"]
Refine = Literal["none", "add", "mul", "affine", "rotate"]
"""No concatenation: it would change the width of a head's output."""

PLACES = ("align", "refine")


@dataclass
class PerTask:
    """What one task has of its own; null is what the others have."""

    align: Align | None = None
    refine: Refine | None = None
    sites: list[str] | None = None


@dataclass
class ImplicitConfig:
    """Which codes exist and how they act.

    Attributes:
        decoder: `_target_` and options of a `Decoder`; null is the arm without codes.
        align: operator before a head's last layer: add, mul, affine, rotate, concat or none.
        refine: operator on a head's outputs: mul, add, affine, rotate or none.
        sites: glob patterns of the slots to fill, as `align.p3` or `refine.*`.
        per_task: task name → overrides of align, refine and sites.
    """

    decoder: dict[str, Any] | None = None
    align: Align = "add"
    refine: Refine = "mul"
    sites: list[str] = field(default_factory=lambda: ["*"])
    per_task: dict[str, PerTask] = field(default_factory=dict)

    def of_task(self, task: str) -> ImplicitConfig:
        """The configuration as one task sees it."""
        own = vars(self.per_task.get(task, PerTask()))
        return replace(self, per_task={}, **{k: v for k, v in own.items() if v is not None})
