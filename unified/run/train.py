"""`unified train`: train and evaluate, leave a run folder."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.utils import instantiate
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers.logger import Logger
from omegaconf import OmegaConf

from unified.build import build
from unified.data.datamodule import DataModule
from unified.data.prepare import prepare
from unified.data.split import Sources
from unified.errors import ConfigError
from unified.model import UnifiedModel
from unified.module import SCORE, UnifiedModule
from unified.run.callbacks import RampedEMA, SavedConfig, TrainingBatchPicture
from unified.run.checkpoints import BEST, LAST
from unified.run.folder import fresh_folder, refuse_full
from unified.run.history import History, RowBeforeCheckpoint
from unified.run.report import report
from unified.run.trainer import make_trainer, validate
from unified.schema import Config
from unified.task import DataSpec
from unified.weights import ABOUT, fit_exactly, network_of, read_checkpoint, start_from

log = logging.getLogger(__name__)


def train(config: Config) -> dict[str, Any]:
    """Train and evaluate; returns every task's metrics of the best epoch."""
    going_on = _last_of(config)
    prepare(config.data)
    pl.seed_everything(config.seed, workers=False, verbose=False)
    sources = Sources(config.data, config.data.train)
    spec = DataSpec(config.data.image_size, sources.open)
    model = build(config, spec)
    if going_on:
        _refuse_another(read_checkpoint(going_on), config, model)
    elif config.weights:
        start_from(config.weights, model, spec.spaces)
    tasks = model.named_tasks()
    data = DataModule(config.data, config.augment, tasks, spec.spaces, sources, config.seed)
    module = UnifiedModule(config, model, spec, data.val_split.sources)
    folder = _run_folder(config)
    history = History(folder)
    best, callbacks = _callbacks(folder, config, spec, history)
    trainer = make_trainer(config.trainer, callbacks, [history, *_loggers(folder, config)])
    began = time.monotonic()
    trainer.fit(module, data, ckpt_path=going_on)
    minutes = (time.monotonic() - began) / 60
    scores = _evaluate_best(trainer, module, data, best)
    if trainer.is_global_zero:
        facts = {"epochs": trainer.current_epoch, "minutes": round(minutes, 2)}
        report(folder, module, data.val_dataset(), scores, facts)
    return scores


def _last_of(config: Config) -> str | None:
    """The checkpoint to go on with, if the run that is resumed has one.

    Raises:
        ConfigError: a new run would lie among other files.
    """
    if config.resume:
        log.info("resuming %s", config.resume)
        last = Path(config.resume) / f"{LAST}.ckpt"
        return str(last) if last.is_file() else None
    rank_zero_only(refuse_full)(config.out)
    return None


def _refuse_another(state: dict[str, Any], config: Config, model: UnifiedModel) -> None:
    """What the state of a training belongs to cannot change on the way."""
    fit_exactly(state, model, config)
    name = state[ABOUT]["config"]["optim"]["name"]
    if config.optim.name != name:
        raise ConfigError(
            f"optim.name={config.optim.name} cannot go on with the state of {name}",
            "leave optim out, or start a new run with weights=RUN",
        )


def _run_folder(config: Config) -> Path:
    """Where the run lives; only the first process makes it, and Lightning tells the others."""
    given = config.resume or config.out
    if given is None:
        return fresh_folder(config.name) if _is_first() else Path("runs")
    folder = Path(given)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _is_first() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def _callbacks(
    folder: Path, config: Config, spec: DataSpec, history: History
) -> tuple[ModelCheckpoint, list[pl.Callback]]:
    best = ModelCheckpoint(folder, BEST, monitor=SCORE, mode="max", enable_version_counter=False)
    last = ModelCheckpoint(folder, LAST, save_on_train_epoch_end=True, enable_version_counter=False)
    callbacks: list[pl.Callback] = [
        best,
        last,
        RowBeforeCheckpoint(history),
        SavedConfig(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config))),
        TrainingBatchPicture(folder, spec.spaces),
    ]
    if config.optim.ema_decay > 0:
        callbacks.append(RampedEMA(config.optim.ema_decay, config.optim.ema_ramp))
    if config.logger:
        callbacks.append(LearningRateMonitor("epoch"))
    return best, callbacks


def _loggers(folder: Path, config: Config) -> list[Logger]:
    return [instantiate(config.logger, save_dir=str(folder))] if config.logger else []


def _evaluate_best(
    trainer: pl.Trainer, module: UnifiedModule, data: DataModule, best: ModelCheckpoint
) -> dict[str, Any]:
    """Score the best epoch's weights once more, so that files and pictures belong to them."""
    # A run shorter than the interval of validation has no best epoch: its last one counts.
    file = best.best_model_path or Path(str(best.dirpath)) / f"{LAST}.ckpt"
    module.model.load_state_dict(network_of(read_checkpoint(file)), strict=False)
    # The epochs' histories are complete; this pass belongs to none of them.
    trainer.loggers = []
    return validate(trainer, module, data)
