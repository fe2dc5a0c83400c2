"""The typed configuration. What can be known to be wrong is refused here, before any work."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unified.ablation import AblationConfig
from unified.bounds import Count, Name, NonNegative, Part, Positive, Share, Whole, checked
from unified.data.augment import AugmentConfig
from unified.data.config import DataConfig
from unified.errors import ConfigError
from unified.implicit.config import ImplicitConfig
from unified.weighting.config import WeightingConfig

RunName = Annotated[str, Meta(pattern=r"^(?!\.{1,2}$)[^/\\\x00]+$")]
"""Of a folder in `runs`, and not of one elsewhere."""
Length = Annotated[int, Meta(ge=-1)]
"""-1 is no limit."""
Batches = Annotated[int, Meta(ge=0)] | Share
"""How many, or which share of all."""
TRAINER: dict[str, Any] = {
    "max_epochs": Length | None,
    "max_steps": Length,
    "accumulate_grad_batches": Count,
    "check_val_every_n_epoch": Count | None,
    "gradient_clip_val": NonNegative | None,
    "limit_train_batches": Batches | None,
    "limit_val_batches": Batches | None,
    "log_every_n_steps": Count,
    "enable_progress_bar": bool,
    "num_nodes": Count,
    "precision": Literal["auto", "32-true", "16-mixed", "bf16-mixed"],
    "strategy": Literal[
        "auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false"
    ],
}
"""Arguments of Lightning's trainer that it takes without a look at their bounds."""


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
        trunk_lr: factor on the trunk's learning rate. Where tasks that pull in different ways share
            it, an optimiser that divides by the size of gradients leaves each a smaller step.
    """

    name: Literal["adamw", "sgd"]
    lr: Positive
    weight_decay: NonNegative
    momentum: Part
    warmup_epochs: NonNegative
    final_lr: Share
    code_lr: NonNegative
    ema_decay: Part
    ema_ramp: Whole
    trunk_lr: NonNegative = 1.0

    def __post_init__(self) -> None:
        if self.name == "sgd" and self.momentum == 0:
            raise ConfigError(
                "optim.name=sgd has Nesterov momentum, and optim.momentum=0",
                "use a momentum, as 0.9",
            )


@dataclass
class Config:
    """A whole run.

    Attributes:
        name: of the run; part of its folder's name.
        out: the run folder, or the output folder of predict.
        seed: of everything.
        resume: a run folder to go on with.
        weights: a checkpoint or run folder whose weights training starts from; the released file
            for import.
        names: of the classes of a released file, one in each line, where they are not COCO's.
        ckpt: checkpoint for eval and predict.
        source: image, folder or glob for predict.
        trust: package, or packages, of your own whose classes a checkpoint or a run may name.
        min_score: detections below this are not drawn or reported by predict.
        task: task name → `_target_` and arguments.
        trunk: `_target_` and arguments.
        data: where images and annotations are, and how they are loaded.
        implicit: which codes there are, and how they act.
        optim: optimiser, schedule and averaged weights.
        weighting: how the tasks' losses become one.
        augment: view name → what to draw.
        trainer: arguments of lightning.pytorch.Trainer, of which any may be added: +trainer.key=….
        logger: `_target_` and arguments of a Lightning logger, or null.
        diagnose_every_n_steps: look at every task's gradients on the trunk, and at the codes, for
            `gradients.csv`, `codes.csv` and their picture; a look costs a step and a backward pass
            for every task.
        ablation: what `ablate` compares.
    """

    command: str
    name: RunName
    out: str | None
    seed: Whole
    resume: str | None
    weights: str | None
    names: str | None
    ckpt: str | None
    source: str | None
    trust: list[Name] | Name | None
    min_score: Share
    data: DataConfig
    augment: dict[str, AugmentConfig]
    implicit: ImplicitConfig
    weighting: WeightingConfig
    optim: OptimConfig
    trunk: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] | None = None
    diagnose_every_n_steps: Count | None = None
    ablation: AblationConfig | None = None


def validate(raw: DictConfig) -> Config:
    """Check types, unknown keys and everything that fields say about each other.

    Raises:
        ConfigError: with the key and the fix.
    """
    try:
        plain = OmegaConf.to_container(raw, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "the configuration"
        message = (getattr(error, "msg", None) or str(error)).strip().splitlines()[0]
        raise ConfigError(
            f"{key}: {message}", "run `unified train --cfg job` to see every key and its value"
        ) from error
    config: Config = checked("", plain, Config)
    if "val_check_interval" in config.trainer:
        raise ConfigError(
            "trainer.val_check_interval: an epoch is scored at its end",
            "use trainer.check_val_every_n_epoch, and trainer.limit_train_batches for short epochs",
        )
    for name, value in config.trainer.items():
        checked(f"trainer.{name}", value, TRAINER.get(name, Any))
    _check_end(config.trainer)
    if not config.task:
        raise ConfigError("no task is selected", "for example task=[detection]")
    for name, task in config.task.items():
        if not name.isidentifier():
            raise ConfigError(f"task.{name} is no name", "use letters, digits and _")
        if not isinstance(task, dict) or "_target_" not in task:
            raise ConfigError(
                f"task.{name}={task} has no _target_",
                f"select tasks by task=[…], with a file conf/task/{name}.yaml",
            )
    return config


def _check_end(trainer: dict[str, Any]) -> None:
    """Refuse a run that has no end, and with it no schedule, or no epoch."""
    epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps", -1)
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if trainer.get(name) == 0:
            raise ConfigError(f"trainer.{name}=0 learns nothing", "use 1 or more")
    if trainer.get("overfit_batches"):
        raise ConfigError(
            "trainer.overfit_batches would replace the sampler, which knows what a step draws",
            "use trainer.limit_train_batches, and data.val=<the training split>",
        )
    if epochs in (None, -1) and steps in (None, -1):
        raise ConfigError(
            f"trainer.max_epochs={epochs} and trainer.max_steps={steps}: the run has no end",
            "set trainer.max_epochs or trainer.max_steps",
        )


def plain(config: Config) -> dict[str, Any]:
    """The configuration as plain containers, as files hold it."""
    return asdict(config)


def needed(value: str | None, key: str, command: str) -> str:
    """A key that a command cannot do without.

    Raises:
        ConfigError: it is not given.
    """
    if value is None:
        raise ConfigError(f"{command} needs {key}", f"unified {command} {key}=…")
    return value
