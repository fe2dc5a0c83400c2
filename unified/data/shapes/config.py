"""Size of the generated data set: the typed part `data.shapes` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from unified.bounds import Count, Whole


@dataclass
class ShapesConfig:
    """Size of the generated data set.

    Attributes:
        train, val: number of images per split.
        size: side of an image in pixels.
        recurrence: how often an individual appears in its split. Frequent fine categories have
            many individuals, each at least one; the splits share none.
        seed: start of all randomness.
    """

    train: Count = 3000
    val: Count = 200
    size: Annotated[int, Meta(ge=64, le=4096)] = 128
    recurrence: Count = 30
    seed: Whole = 0
