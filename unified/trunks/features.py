"""What a trunk publishes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from unified.errors import ConfigError


@dataclass(frozen=True)
class Level:
    """One map of the feature pyramid: its channels and how many input pixels a cell spans."""

    channels: int
    stride: int


FeatureSpec = Mapping[str, Level]
"""Level name (`p3`, finest first) to its channels and stride."""


def check_levels(key: str, names: Iterable[str], features: FeatureSpec) -> None:
    """Refuse levels that a trunk does not have.

    Raises:
        ConfigError: names the key that asks for one.
    """
    for name in names:
        if name not in features:
            raise ConfigError(
                f"{key}: the trunk has no level {name}", f"use some of: {', '.join(features)}"
            )


@runtime_checkable
class Trunk(Protocol):
    """The explicit representation f_θ(x)."""

    features: FeatureSpec

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) in [0, 1] to level name → (B, C, H/stride, W/stride)."""
        ...
