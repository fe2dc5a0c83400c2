"""The typed configuration. What can be known to be wrong is refused here, before any work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unified.data.augment import AugmentConfig
from unified.data.config import DataConfig
from unified.errors import ConfigError
from unified.implicit.config import ImplicitConfig
from unified.weighting import WeightingConfig


@dataclass
class OptimConfig:
    """Optimiser, schedule and averaging.

    Attributes:
        name: `adamw` or `sgd` (with Nesterov momentum).
        lr: peak learning rate.
        weight_decay: on weights with two or more dimensions only; never on codes.
        momentum: of SGD, or AdamW's first beta.
        warmup_epochs: linear rise from zero.
        final_lr: share of `lr` at the end of the cosine.
        code_lr: factor on the codes' learning rate.
        ema_decay: of the averaged weights that are evaluated and kept; 0 averages nothing.
        ema_ramp: steps over which the decay rises to its value.
    """

    name: str
    lr: float
    weight_decay: float
    momentum: float
    warmup_epochs: float
    final_lr: float
    code_lr: float
    ema_decay: float
    ema_ramp: int

    def __post_init__(self) -> None:
        if self.name not in ("adamw", "sgd"):
            raise ConfigError(f"optim.name={self.name} is unknown", "use adamw or sgd")
        if isinstance(self.lr, float) and self.lr <= 0:
            raise ConfigError(f"optim.lr={self.lr} is not positive", "use for example 0.001")


@dataclass
class Config:
    """A whole run.

    Attributes:
        name: of the run; part of its folder's name.
        out: the run folder, or the output folder of predict.
        seed: of everything.
        resume: a run folder to go on with.
        weights: a checkpoint or run folder whose weights training starts from.
        ckpt: checkpoint for eval and predict.
        source: image, folder or glob for predict.
        min_score: detections below this are not drawn or reported by predict.
        task: task name → `_target_` and arguments.
        trunk: `_target_` and arguments.
        augment: view name → what to draw.
        trainer: arguments of Lightning's Trainer.
        logger: `_target_` and arguments of a Lightning logger, or null.
    """

    command: str
    name: str
    out: str | None
    seed: int
    resume: str | None
    weights: str | None
    ckpt: str | None
    source: str | None
    min_score: float
    data: DataConfig
    augment: dict[str, AugmentConfig]
    implicit: ImplicitConfig
    weighting: WeightingConfig
    optim: OptimConfig
    trunk: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] | None = None


def validate(raw: DictConfig) -> Config:
    """Check types, unknown keys and everything that fields say about each other.

    Raises:
        ConfigError: with the key and the fix.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), raw)
        config = cast(Config, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        # A ConfigError raised while a section was built arrives wrapped.
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        key = getattr(error, "full_key", None) or "the configuration"
        message = (getattr(error, "msg", None) or str(error)).strip().splitlines()[0]
        raise ConfigError(
            f"{key}: {message}", "run `unified train --cfg job` to see every key and its value"
        ) from error
    if not config.task:
        raise ConfigError("no task is selected", "for example task=[detection]")
    for name, task in config.task.items():
        if task is None or "_target_" not in task:
            raise ConfigError(
                f"task.{name} has no _target_",
                f"select tasks by task=[…], with a file conf/task/{name}.yaml",
            )
    return config


def needed(value: str | None, key: str, command: str) -> str:
    """A key that a command cannot do without.

    Raises:
        ConfigError: it is not given.
    """
    if value is None:
        raise ConfigError(f"{command} needs {key}", f"unified {command} {key}=…")
    return value
