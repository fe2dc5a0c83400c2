"""`unified info`: parameters and FLOPs by trunk, heads and codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from unified.build import build
from unified.checkpoint import read_checkpoint
from unified.data.config import DataConfig
from unified.data.prepare import prepare
from unified.data.sources import Folders
from unified.run.cost import measure_cost, print_cost
from unified.schema import Config
from unified.task import DataSpec
from unified.weights import rebuild

FEW = 32
"""Images that have boxes enough for anchors."""


@contextmanager
def _described(data: DataConfig) -> Iterator[DataConfig]:
    """The data; of generated ones that are not there, a few images tell as much as all."""
    if data.shapes is None or Path(data.root).exists():
        yield data
        return
    with TemporaryDirectory() as folder:
        few = replace(data.shapes, train=FEW, val=1, test=0)
        small = replace(data, root=str(Path(folder) / "shapes"), shapes=few)
        prepare(small)
        yield small


def info(config: Config) -> dict[str, Any]:
    """The cost of a checkpoint's network, or of the one that the configuration describes."""
    if config.ckpt:
        model, _ = rebuild(read_checkpoint(config.ckpt), config)
    else:
        with _described(config.data) as data:
            sources = Folders(data, data.train)
            model = build(config, DataSpec(data.image_size, sources.open))
    cost = measure_cost(model, config.data.image_size)
    print_cost(cost, config.data.image_size)
    return cost
