"""Where the data is and how it is loaded: the typed part `data` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from unified.data.shapes.config import ShapesConfig
from unified.errors import ConfigError


@dataclass
class DataConfig:
    """Where the data is and how it is loaded.

    Attributes:
        root: folder in COCO's layout.
        train, val: names of the splits.
        image_size: side of the square network input in pixels, a multiple of 32.
        batch_size: network inputs per step and process, all views counted.
        workers: loading processes; 0 loads in the main process.
        check: look at every image file before training starts.
        derive: where a split lacks a kind, make it from another by `derived`.
        sources: kind → the class that reads it.
        derived: kind → the class that makes it from another kind.
        shapes: generate the embedded data set into `root`; null for real data.
    """

    root: str
    train: str
    val: str
    image_size: int
    batch_size: int
    workers: int
    check: bool = True
    derive: bool = False
    sources: dict[str, str] = field(default_factory=dict)
    derived: dict[str, str] = field(default_factory=dict)
    shapes: ShapesConfig | None = None

    def __post_init__(self) -> None:
        if isinstance(self.image_size, int) and (self.image_size < 32 or self.image_size % 32):
            raise ConfigError(
                f"data.image_size={self.image_size} is not a multiple of 32",
                f"use {max(32, round(self.image_size / 32) * 32)}",
            )
        if self.batch_size < 1:
            raise ConfigError(f"data.batch_size={self.batch_size} holds no image", "use 1 or more")
