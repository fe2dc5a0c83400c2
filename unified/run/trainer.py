"""Lightning's trainer, as training and evaluation share it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers.logger import Logger

from unified.data.datamodule import DataModule
from unified.errors import ConfigError
from unified.module import UnifiedModule
from unified.run.checkpoints import RunCheckpoints

REFRESH = 10
"""Steps between two looks at the progress; each look waits for the device."""
NOT_THE_USERS = (
    ".*does not have many workers.*",  # their number is the user's decision
    ".*exists and is not empty.*",  # checkpoints are meant to be there
    ".*number of training batches.*",
    ".*sync_dist=True.*",  # what is logged is the same in all processes
)


def make_trainer(
    arguments: Mapping[str, Any],
    callbacks: Sequence[pl.Callback] = (),
    loggers: Sequence[Logger] = (),
) -> pl.Trainer:
    """A trainer that lets the project's sampler, checkpoints and progress bar do their work.

    Raises:
        ConfigError: Lightning refuses an argument.
    """
    given = dict(arguments)
    if given.get("precision") == "auto":
        on_gpu = torch.cuda.is_available() and given.get("accelerator") != "cpu"
        bf16 = on_gpu and torch.cuda.is_bf16_supported()
        given["precision"] = "bf16-mixed" if bf16 else "32-true"
    for message in NOT_THE_USERS:
        warnings.filterwarnings("ignore", message)
    bars = [RichProgressBar(REFRESH, leave=False)] if given.get("enable_progress_bar", True) else []
    try:
        return pl.Trainer(
            callbacks=[*callbacks, *bars],
            logger=list(loggers),
            plugins=[RunCheckpoints()],
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            **given,
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise ConfigError(
            f"trainer: {error}", "see the arguments of lightning.pytorch.Trainer"
        ) from error


def validate(trainer: pl.Trainer, module: UnifiedModule, data: DataModule) -> dict[str, Any]:
    """Score the module as it is, every process its share: task → metric → value."""
    trainer.validate(module, datamodule=data, verbose=False)
    scores: dict[str, Any] = {}
    for name, value in trainer.callback_metrics.items():
        if name.startswith("val/"):
            _, task, metric = name.split("/", 2)
            scores.setdefault(task, {})[metric] = float(value)
    return scores
