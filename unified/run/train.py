"""`unified train`: train and evaluate, leave a run folder."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers.logger import Logger
from omegaconf import OmegaConf

from unified.build import build
from unified.classes import instantiate
from unified.data.datamodule import DataModule
from unified.data.prepare import prepare
from unified.data.split import Sources
from unified.errors import ConfigError, DataError, JobError, Stopped
from unified.module import SCORE, UnifiedModule
from unified.run.callbacks import (
    EpochLine,
    LastValidated,
    RampedEMA,
    SavedConfig,
    Stopwatch,
    TrainingBatchPicture,
)
from unified.run.checkpoints import BEST, LAST, Kept
from unified.run.folder import claimed, fresh_folder, made, refuse_full, remove_empty
from unified.run.history import History, RowBeforeCheckpoint
from unified.run.report import opening, report
from unified.run.stop import StopOnSignal
from unified.run.trainer import make_trainer, validate
from unified.schema import Config, plain
from unified.task import DataSpec
from unified.weights import ABOUT, fit_exactly, network_of, read_checkpoint, start_from

log = logging.getLogger(__name__)
GONE = ("Connection closed", "Connection reset", "timed out", "Timed out", "timeout", "NCCL")
"""What backends say when they wait for a process that is no more."""


def train(config: Config) -> dict[str, Any]:
    """Train and evaluate; returns every task's metrics of the best epoch.

    Raises:
        Stopped: a signal ended it; says how to go on.
    """
    with StopOnSignal() as stop, ExitStack() as held:
        if config.resume:
            held.enter_context(_claim(Path(config.resume)))
        going_on = _last_of(config)
        prepare(config.data)
        pl.seed_everything(config.seed, workers=False, verbose=False)
        sources = Sources(config.data, config.data.train)
        spec = DataSpec(config.data.image_size, sources.open)
        model = build(config, spec)
        state = read_checkpoint(going_on) if going_on else None
        if state is not None:
            fit_exactly(state, model, config)
        elif config.weights:
            start_from(config.weights, model, spec.spaces)
        tasks = model.named_tasks()
        data = DataModule(config.data, config.augment, tasks, spec.spaces, sources, config.seed)
        module = UnifiedModule(config, model, spec, data.val_split.sources)
        if state is not None:
            _refuse_another(state, module)
        existed = Path(config.resume or config.out or "").exists()
        folder = _run_folder(config)
        if not config.resume:
            held.enter_context(_claim(folder))
        try:
            return _learn(folder, module, data, going_on, stop)
        except Stopped as stopped:
            advice = f"go on with: unified train resume={folder}"
            raise Stopped(stopped.number, advice) from None
        except ConfigError:
            if _is_first() and (config.out is None or not existed):
                remove_empty(folder)
            raise


def _learn(
    folder: Path, module: UnifiedModule, data: DataModule, going_on: str | None, stop: StopOnSignal
) -> dict[str, Any]:
    """Fit, score the best epoch once more, report."""
    config, history, stopwatch = module.config, History(folder), Stopwatch()
    best = Kept(folder, BEST, monitor=SCORE, mode="max")
    callbacks: list[pl.Callback] = [
        best,
        Kept(folder, LAST, save_on_train_epoch_end=True),
        RowBeforeCheckpoint(history),
        SavedConfig(folder / "config.yaml", OmegaConf.to_yaml(plain(config))),
        TrainingBatchPicture(folder, module.data.spaces),
        LastValidated(),
        EpochLine(),
        stopwatch,
    ]
    if config.optim.ema_decay > 0:
        callbacks.append(RampedEMA(config.optim.ema_decay, config.optim.ema_ramp))
    if config.logger:
        callbacks.append(LearningRateMonitor("epoch"))
    callbacks.append(stop)  # behind those that a step is not complete without
    trainer = make_trainer(config.trainer, callbacks, [history, *_loggers(folder, config)])
    if trainer.is_global_zero:
        for line in opening(module, data, folder, str(trainer.strategy.root_device)):
            print(line, flush=True)
    try:
        trainer.fit(module, data, ckpt_path=going_on)
    except RuntimeError as error:
        if trainer.world_size == 1 or not any(word in str(error) for word in GONE):
            raise
        raise JobError(
            f"another process of this job has ended: {str(error).splitlines()[0]}",
            f"look at what it said; go on with: unified train resume={folder}",
        ) from error
    scores = _evaluate_best(trainer, module, data, best)
    if trainer.is_global_zero:
        minutes = round(stopwatch.seconds / 60, 2)
        facts = {"epochs": trainer.current_epoch, "minutes": minutes}
        report(folder, module, data.val_dataset(), scores, facts)
    return scores


def _last_of(config: Config) -> str | None:
    """The checkpoint to go on with, if the run that is resumed has one.

    Raises:
        ConfigError: a new run would lie among other files.
        DataError: the run was trained, and its state is gone.
    """
    if not config.resume:
        rank_zero_only(refuse_full)(config.out)
        return None
    log.info("resuming %s", config.resume)
    last, best = (Path(config.resume) / f"{name}.ckpt" for name in (LAST, BEST))
    if last.is_file():
        return str(last)
    if best.is_file() and read_checkpoint(best)["epoch"] > 0:
        raise DataError(
            f"resume={config.resume} has no {last.name} to go on with",
            f"put it back, or start a new run from its weights: weights={config.resume}",
        )
    log.info("nothing was saved before it ended: it starts anew")
    return None


def _refuse_another(state: dict[str, Any], module: UnifiedModule) -> None:
    """What the state of a training belongs to cannot change on the way."""
    name, chosen = state[ABOUT]["config"]["optim"]["name"], module.config.optim.name
    if chosen != name:
        raise ConfigError(
            f"optim.name={chosen} cannot go on with the state of {name}",
            "leave optim out, or start a new run with weights=RUN",
        )
    saved = {name: tuple(tensor.shape) for name, tensor in state["state_dict"].items()}
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    other = sorted(name for name in saved.keys() | own.keys() if saved.get(name) != own.get(name))
    if other:
        raise ConfigError(
            f"{other[0]} is {saved.get(other[0], 'not')} in the state of the training, "
            f"{own.get(other[0], 'not')} in this run",
            "leave out changes of weighting and of what tasks keep, or start a new run with "
            "weights=RUN",
        )


def _run_folder(config: Config) -> Path:
    """Where the run lives; only the first process makes it, and Lightning tells the others."""
    given = config.resume or config.out
    if given is None:
        return fresh_folder(config.name) if _is_first() else Path("runs")
    return made(Path(given))


def _claim(folder: Path) -> AbstractContextManager[None]:
    """Of the first process, which is the one that writes."""
    return claimed(folder) if _is_first() else nullcontext()


def _is_first() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def _loggers(folder: Path, config: Config) -> list[Logger]:
    if not config.logger:
        return []
    return [instantiate("logger", Logger, config.logger, save_dir=str(folder))]


def _evaluate_best(
    trainer: pl.Trainer, module: UnifiedModule, data: DataModule, best: Kept
) -> dict[str, Any]:
    """Score the best epoch's weights once more, so that files and pictures belong to them."""
    # A run that ended within an epoch may have no best one: its last state counts.
    file = best.best_model_path or Path(str(best.dirpath)) / f"{LAST}.ckpt"
    module.model.load_state_dict(network_of(read_checkpoint(file)), strict=False)
    # The epochs' histories are complete; this pass belongs to none of them.
    trainer.loggers = []
    return validate(trainer, module, data)
