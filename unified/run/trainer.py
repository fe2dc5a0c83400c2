"""Lightning's trainer, as training and evaluation share it."""

from __future__ import annotations

import os
import sys
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
    ".*dataloader is not resumable.*",  # its sampler knows where to go on
    ".*LeafSpec.*",  # of Lightning about torch
)


class EpochBar(RichProgressBar):
    """Counts epochs from one, as people do."""

    def _get_train_description(self, current_epoch: int) -> str:
        most = self.trainer.max_epochs or -1
        return f"Epoch {current_epoch + 1}" + (f"/{most}" if most > 0 else "")


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
    _check_devices(given)
    for message in NOT_THE_USERS:
        warnings.filterwarnings("ignore", message)
    # In a log file, the lines of the epochs are what can be read.
    watched = given.pop("enable_progress_bar", True) and sys.stdout.isatty()
    bars = [EpochBar(REFRESH, leave=False)] if watched else []
    try:
        trainer = pl.Trainer(
            callbacks=[*callbacks, *bars],
            logger=list(loggers),
            plugins=[RunCheckpoints()],
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            enable_progress_bar=bool(bars),
            **given,
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise ConfigError(
            f"trainer: {error}", "see the arguments of lightning.pytorch.Trainer"
        ) from error
    _check_launcher(trainer)
    # With max_steps, Lightning takes every start for one in the middle of an epoch: a run that goes
    # on behind an epoch would leave the next one out.
    trainer.fit_loop._iteration_based_training = bool  # type: ignore[method-assign]
    return trainer


def _check_devices(given: Mapping[str, Any]) -> None:
    """Refuse more processes than there are devices: each would train on its own."""
    devices, accelerator = given.get("devices"), given.get("accelerator", "auto")
    if not isinstance(devices, int) or accelerator not in ("auto", "cpu", "gpu", "cuda"):
        return
    on_gpu = torch.cuda.is_available() and accelerator != "cpu"
    there = torch.cuda.device_count() if on_gpu else os.cpu_count() or 1
    if devices > there:
        raise ConfigError(
            f"trainer.devices={devices}, and there are {there} {'GPUs' if on_gpu else 'cores'}",
            f"use {there} or fewer",
        )


def _check_launcher(trainer: pl.Trainer) -> None:
    """Refuse processes of torchrun that nobody joins: each would be a training of its own."""
    started = int(os.environ.get("WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if started not in (1, trainer.world_size):
        raise ConfigError(
            f"torchrun has started {started} processes, and trainer.devices × trainer.num_nodes "
            f"is {trainer.world_size}",
            f"set trainer.devices={os.environ.get('LOCAL_WORLD_SIZE', started)}",
        )


def validate(trainer: pl.Trainer, module: UnifiedModule, data: DataModule) -> dict[str, Any]:
    """Score the module as it is, every process its share: task → metric → value."""
    trainer.validate(module, datamodule=data, verbose=False)
    scores: dict[str, Any] = {}
    for name, value in trainer.callback_metrics.items():
        if name.startswith("val/"):
            _, task, metric = name.split("/", 2)
            scores.setdefault(task, {})[metric] = float(value)
    return scores
