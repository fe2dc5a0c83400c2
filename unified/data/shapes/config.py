"""Size of the generated data set: the typed part `data.shapes` of the configuration."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from unified.errors import ConfigError


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

    train: int = 3000
    val: int = 200
    size: int = 128
    recurrence: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.train, self.val, self.recurrence) < 1 or self.size < 64:
            raise ConfigError(
                f"data.shapes={asdict(self)} is too small", "use size ≥ 64 and at least one image"
            )
