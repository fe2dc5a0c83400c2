"""`unified info`: parameters and FLOPs by trunk, heads and codes."""

from __future__ import annotations

from typing import Any

from unified.build import build
from unified.data.prepare import prepare
from unified.data.split import Sources
from unified.run.cost import measure_cost, print_cost
from unified.schema import Config
from unified.task import DataSpec
from unified.weights import read_checkpoint, rebuild


def info(config: Config) -> dict[str, Any]:
    """The cost of a checkpoint's network, or of the one that the configuration describes."""
    if config.ckpt:
        model, _ = rebuild(read_checkpoint(config.ckpt), config)
    else:
        prepare(config.data)
        sources = Sources(config.data, config.data.train)
        model = build(config, DataSpec(config.data.image_size, sources.open))
    cost = measure_cost(model, config.data.image_size)
    print_cost(cost, config.data.image_size)
    return cost
