"""The typed part `weighting` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from unified.bounds import NonNegative, Positive
from unified.errors import ConfigError


@dataclass
class WeightingConfig:
    """Joint loss.

    Attributes:
        kind: `fixed`; `uncertainty` (learned, Kendall et al. 2018); `dwa`: the more, the slower a
            task's loss falls (Liu et al. 2019); `balance`: of what reaches the shared pyramid,
            every task has its share, however loud its losses are; or `torchjd`: as `method` does.
        tasks: task name → factor on the whole task, or its share; 1 where not given.
        scale: factor on everything.
        method: of `torchjd`: the class of its scalarizer, as `GeometricMean`, or aggregator, as
            `UPGrad`.
        options: of `torchjd`: arguments of that class; a list of a scalarizer has a number per
            task, in the order in which `metrics.csv` has their factors.
    """

    kind: Literal["fixed", "uncertainty", "dwa", "balance", "torchjd"] = "fixed"
    tasks: dict[str, NonNegative] = field(default_factory=dict)
    scale: Positive = 1.0
    method: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind != "torchjd" and (self.method or self.options):
            said = "method" if self.method else "options"
            raise ConfigError(
                f"weighting.{said} is torchjd's, and weighting.kind={self.kind}",
                "leave it out, or use weighting=torchjd",
            )
