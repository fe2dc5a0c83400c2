"""The typed part `weighting` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from unified.bounds import NonNegative, Positive


@dataclass
class WeightingConfig:
    """Joint loss.

    Attributes:
        kind: `fixed`; `uncertainty` (learned, Kendall et al. 2018); `dwa`: the more, the slower a
            task's loss falls (Liu et al. 2019); or `balance`: of what reaches the shared pyramid,
            every task has its share, however loud its losses are.
        tasks: task name → factor on the whole task, or its share; 1 where not given.
        scale: factor on everything.
    """

    kind: Literal["fixed", "uncertainty", "dwa", "balance"] = "fixed"
    tasks: dict[str, NonNegative] = field(default_factory=dict)
    scale: Positive = 1.0
