"""From configuration to a weighting."""

from __future__ import annotations

from unified.errors import ConfigError
from unified.weighting.balance import BalanceWeighting
from unified.weighting.config import WeightingConfig
from unified.weighting.dwa import DwaWeighting
from unified.weighting.fixed import FixedWeighting
from unified.weighting.jacobian import build_torchjd
from unified.weighting.uncertainty import UncertaintyWeighting

WEIGHTINGS = {
    "fixed": FixedWeighting,
    "uncertainty": UncertaintyWeighting,
    "dwa": DwaWeighting,
    "balance": BalanceWeighting,
}


def build_weighting(config: WeightingConfig, tasks: list[str]) -> FixedWeighting:
    """The weighting of a run.

    Raises:
        ConfigError: a factor is given for a task that takes no part, all are 0, or torchjd has no
            such method.
    """
    unknown = sorted(set(config.tasks) - set(tasks))
    if unknown:
        raise ConfigError(
            f"weighting.tasks.{unknown[0]}: no such task in this run",
            f"leave it out, ~weighting.tasks.{unknown[0]}, or take another weighting; the run has "
            f"{', '.join(tasks)}",
        )
    own = {name: float(config.tasks.get(name, 1.0)) for name in tasks}
    if not any(own.values()):
        raise ConfigError(
            "weighting.tasks is 0 for all tasks: nothing would be learnt", "let one be more"
        )
    scale = float(config.scale)
    if config.kind == "torchjd":
        return build_torchjd(own, scale, config.method, config.options)
    return WEIGHTINGS[config.kind](own, scale)
