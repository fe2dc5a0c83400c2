"""`unified train`: train and evaluate, leave a run folder."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger
from omegaconf import OmegaConf

from unified.build import build, check
from unified.checkpoint import network_of, read_checkpoint, spaces_of
from unified.classes import instantiate
from unified.data.datamodule import DataModule
from unified.data.prepare import prepare
from unified.data.sources import Folders
from unified.errors import ConfigError, DataError, JobError, Stopped
from unified.files import made
from unified.module import SCORE, UnifiedModule
from unified.run.callbacks import (
    EpochLine,
    LastValidated,
    RampedEMA,
    SavedConfig,
    Stopwatch,
    TrainingBatchPicture,
)
from unified.run.checkpoints import BEST, LAST, Keeper
from unified.run.cost import peak_memory
from unified.run.diagnostics import Diagnostics
from unified.run.folder import abandon, claimed, fresh_folder, refuse_full
from unified.run.history import History, RowBeforeCheckpoint
from unified.run.report import RESULTS, opening, report
from unified.run.resume import TellChanges, last_of, refuse_another
from unified.run.stop import StopOnSignal
from unified.run.trainer import make_trainer, validate
from unified.schema import Config, plain
from unified.task import DataSpec
from unified.weights import fit_exactly, start_from, tasks_of, without_pretrained

log = logging.getLogger(__name__)
GONE = ("Connection closed", "Connection reset", "timed out", "Timed out", "timeout", "NCCL")
"""What backends say when they wait for a process that is no more."""


def train(config: Config) -> dict[str, Any]:
    """Train and evaluate; returns every task's metrics of the best epoch.

    Raises:
        Stopped: a signal ended it; says how to go on.
    """
    with StopOnSignal() as stop, ExitStack() as held:
        if _is_first() and not config.resume:
            refuse_full(config.out)
        given = config.out is not None and Path(config.out).exists()
        folder = _run_folder(config)
        held.enter_context(_claim(folder))
        if _is_first() and not config.resume:
            refuse_full(str(folder))  # another run may have begun there in the meantime
        saved = SavedConfig(
            folder / "config.yaml", OmegaConf.to_yaml(plain(config)), folder / RESULTS
        )
        try:
            state = last_of(config.resume) if config.resume else None
            if _is_first():
                saved.write_first()
                tasks = ", ".join(config.task)
                print(f"run: {folder}; tasks: {tasks}; data: {config.data.root}", flush=True)
            return _learn(folder, *_built(config, state), saved, state, stop)
        except Stopped as stopped:
            advice = f"go on with: unified train resume={folder}"
            raise Stopped(stopped.number, advice) from None
        except (ConfigError, DataError):
            if _is_first() and not config.resume:
                abandon(folder, itself=not given)
            raise


def _built(config: Config, state: dict[str, Any] | None) -> tuple[UnifiedModule, DataModule]:
    """Network and data, which fit each other and the state to go on with."""
    start = read_checkpoint(config.weights) if config.weights and state is None else None
    trained = state or start
    check(config, () if trained is None else tasks_of(network_of(trained)))
    prepare(config.data)
    pl.seed_everything(config.seed, workers=False, verbose=False)
    offered = None if start is None else spaces_of(start)
    sources = Folders(config.data, config.data.train, offered=offered)
    # A run that goes on keeps what its numbers mean.
    kept = None if state is None else spaces_of(state)
    spec = DataSpec(config.data.image_size, sources.open, kept)
    model = build(config if state is None else without_pretrained(config), spec)
    tasks = model.named_tasks()
    if state is not None:
        fit_exactly(state, model, config)
    elif start is not None:
        start_from(config, start, model, spec.spaces)
    data = DataModule(config.data, config.augment, tasks, spec.spaces, sources, config.seed)
    module = UnifiedModule(config, model, spec, data.val_split)
    if state is not None:
        refuse_another(state, module)
    return module, data


def _learn(
    folder: Path,
    module: UnifiedModule,
    data: DataModule,
    saved: SavedConfig,
    state: dict[str, Any] | None,
    stop: StopOnSignal,
) -> dict[str, Any]:
    """Fit, score the best epoch once more, report."""
    config, history, stopwatch = module.config, History(folder), Stopwatch()
    best = Keeper(folder, BEST, monitor=SCORE, mode="max")
    callbacks: list[pl.Callback] = [
        best,
        Keeper(folder, LAST, save_on_train_epoch_end=True),
        RowBeforeCheckpoint(history),
        saved,
        TrainingBatchPicture(folder, module.data.spaces),
        LastValidated(),
        EpochLine(),
        stopwatch,
    ]
    if state:
        callbacks.append(TellChanges(state))
    if config.optim.ema_decay > 0:
        callbacks.append(RampedEMA(config.optim.ema_decay, config.optim.ema_ramp))
    if config.diagnose_every_n_steps:
        callbacks.append(Diagnostics(folder, config.diagnose_every_n_steps))
    callbacks.append(stop)  # behind those that a step is not complete without
    trainer = make_trainer(config.trainer, callbacks, [history, *_loggers(folder, config)])
    if trainer.is_global_zero:
        for line in opening(module, data, str(trainer.strategy.root_device)):
            print(line, flush=True)
    try:
        trainer.fit(module, data, ckpt_path=folder / f"{LAST}.ckpt" if state else None)
    except RuntimeError as error:
        if trainer.world_size == 1 or not any(word in str(error) for word in GONE):
            raise
        raise JobError(
            f"another process of this job has ended: {str(error).splitlines()[0]}",
            f"look at what it said; go on with: unified train resume={folder}",
        ) from error
    if state and trainer.is_global_zero and trainer.global_step == state["global_step"]:
        log.warning(
            "nothing was left to learn after %d epochs and %d steps: raise what ended the run, "
            "trainer.max_epochs, max_steps or max_time, to go on",
            trainer.current_epoch, trainer.global_step,
        )  # fmt: skip
    scores, epoch = _evaluate_best(trainer, module, data, best)
    if trainer.is_global_zero:
        facts = {
            "epochs": trainer.current_epoch,
            "best_epoch": epoch,
            "minutes": round(stopwatch.seconds / 60, 2),
            "step_seconds": stopwatch.step_seconds,
            "peak_memory": peak_memory(trainer.strategy.root_device),
        }
        report(folder, module, data.val_dataset(), scores, facts)
    return scores


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
    trainer: pl.Trainer, module: UnifiedModule, data: DataModule, best: Keeper
) -> tuple[dict[str, Any], int]:
    """Score the best epoch's weights once more, so that files and pictures belong to them.

    Returns:
        Scores, and the epoch, counted from one.
    """
    # A run that ended within an epoch may have no best one: its last state counts.
    file = best.best_model_path or Path(str(best.dirpath)) / f"{LAST}.ckpt"
    state = read_checkpoint(file)
    module.model.load_state_dict(network_of(state), strict=False)
    # The epochs' histories are complete; this pass belongs to none of them.
    trainer.loggers = []
    return validate(trainer, module, data), state["epoch"] + 1
