"""Generate the embedded data set where it is asked for."""

from __future__ import annotations

from pathlib import Path

from unified.data.config import DataConfig


def prepare(config: DataConfig) -> None:
    """Write `shapes` into `data.root` unless it is there already; nothing for real data."""
    if config.shapes is None:
        return
    from unified.data.shapes.write import generate  # slow to import, and seldom needed

    generate(Path(config.root), config.shapes)
