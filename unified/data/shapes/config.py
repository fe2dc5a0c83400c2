"""Size of the generated data set: the typed part `data.shapes` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from unified.bounds import Count, Whole

STAMP = "shapes.json"
"""File of a generated data set that says what it was made from."""
Images = Annotated[int, Meta(ge=1, le=1_000_000)]
"""Ids of a split are of one million."""


@dataclass
class ShapesConfig:
    """Size of the generated data set.

    Attributes:
        train, val, test: number of images per split; there may be none of `test`.
        size: side of an image in pixels.
        recurrence: how often an individual appears in its split. Frequent fine categories have
            many individuals, each at least one; the splits share none.
        seed: start of all randomness.
    """

    train: Images = 3000
    val: Images = 200
    test: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    size: Annotated[int, Meta(ge=64, le=4096)] = 128
    recurrence: Count = 30
    seed: Whole = 0
