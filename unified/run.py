"""What the commands do: train, eval, predict, info."""

from __future__ import annotations

import glob
import json
import logging
import os
import platform
import time
import warnings
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers.logger import Logger
from omegaconf import OmegaConf

from unified import __version__
from unified.build import Built, build, read_checkpoint, rebuild
from unified.callbacks import (
    AtomicCheckpointIO,
    History,
    RampedEMA,
    RowBeforeCheckpoint,
    TrainingBatchPicture,
)
from unified.cost import measure_cost, print_cost
from unified.data.datamodule import DataModule
from unified.data.images import read_upright
from unified.errors import ConfigError, DataError
from unified.implicit.bank import codes_of
from unified.inference import Predictor
from unified.module import SCORE, UnifiedModule
from unified.pictures import draw_prediction, save_picture
from unified.report import (
    print_scores,
    to_plain,
    write_comparisons,
    write_history_plot,
    write_results,
)
from unified.schema import Config

log = logging.getLogger(__name__)
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
RUN_FOLDER = "UNIFIED_RUN_FOLDER"
"""Tells the processes that Lightning starts for the other devices where the run lives."""


# --- train ----------------------------------------------------------------------------------


def train(config: Config) -> dict[str, Any]:
    """Train and evaluate; returns every task's metrics of the best epoch."""
    folder = _run_folder(config)
    data = DataModule(config.data, config.augment, config.seed)
    data.prepare_data()
    pl.seed_everything(config.seed, workers=False, verbose=False)
    built = build(config, data.spec())
    data.serve(built.tasks.values())
    data.check_labels(data.train_split, data.val_split)
    module = UnifiedModule(config, built, data.val_split)
    _write_config(folder, config)
    history = History(folder)
    best, callbacks = _callbacks(folder, config, built, history)
    trainer = _trainer(config, callbacks, [history, *_loggers(folder, config)])
    last = folder / "last.ckpt"
    began = time.monotonic()
    trainer.fit(module, data, ckpt_path=str(last) if config.resume and last.is_file() else None)
    minutes = (time.monotonic() - began) / 60
    scores = _evaluate_best(trainer, module, data, best)
    if trainer.is_global_zero:
        facts = _facts(config, built) | {
            "epochs": trainer.current_epoch,
            "minutes": round(minutes, 2),
        }
        _report(folder, module, data, scores, facts, config)
    return scores


def _run_folder(config: Config) -> Path:
    if config.resume:
        folder = Path(config.resume)
        log.info("resuming %s", folder)
        return folder
    if os.environ.get("LOCAL_RANK", "0") != "0" and RUN_FOLDER in os.environ:
        return Path(os.environ[RUN_FOLDER])
    folder = Path(config.out) if config.out else _fresh_folder(config.name)
    if (folder / "last.ckpt").is_file():
        raise ConfigError(
            f"out={folder} already holds a run", f"use resume={folder} to go on, or another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[RUN_FOLDER] = str(folder.absolute())
    return folder


def _fresh_folder(name: str) -> Path:
    """`runs/<name>/<time>`, made unique for runs that start in the same second."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for attempt in range(1000):
        folder = Path("runs") / name / (stamp + (f"-{attempt}" if attempt else ""))
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise ConfigError("no free name for a run folder", "set out=<folder>")


@rank_zero_only
def _write_config(folder: Path, config: Config) -> None:
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))


def _callbacks(
    folder: Path, config: Config, built: Built, history: History
) -> tuple[ModelCheckpoint, list[pl.Callback]]:
    best = ModelCheckpoint(folder, "best", monitor=SCORE, mode="max", enable_version_counter=False)
    last = ModelCheckpoint(
        folder, "last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    callbacks: list[pl.Callback] = [
        best,
        last,
        RowBeforeCheckpoint(history),
        TrainingBatchPicture(folder, built.data.labels.get("instances")),
    ]
    if config.optim.ema_decay > 0:
        callbacks.append(RampedEMA(config.optim.ema_decay, config.optim.ema_ramp))
    if config.trainer.get("enable_progress_bar", True):
        callbacks.append(RichProgressBar(leave=False))
    if config.logger:
        callbacks.append(LearningRateMonitor("epoch"))
    return best, callbacks


def _loggers(folder: Path, config: Config) -> list[Logger]:
    return [instantiate(config.logger, save_dir=str(folder))] if config.logger else []


def _trainer(config: Config, callbacks: list[pl.Callback], loggers: list[Logger]) -> pl.Trainer:
    arguments = dict(config.trainer)
    if arguments.get("precision") == "auto":
        on_gpu = torch.cuda.is_available() and arguments.get("accelerator") != "cpu"
        arguments["precision"] = (
            "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"
        )
    # The number of workers is the user's decision, and checkpoints are meant to be there.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*number of training batches.*")
    try:
        return pl.Trainer(
            callbacks=callbacks,
            logger=loggers,
            plugins=[AtomicCheckpointIO()],
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            **arguments,
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise ConfigError(
            f"trainer: {error}", "see the arguments of lightning.pytorch.Trainer"
        ) from error


def _evaluate_best(
    trainer: pl.Trainer, module: UnifiedModule, data: DataModule, best: ModelCheckpoint
) -> dict[str, Any]:
    """Score the best epoch's weights once more, so that files and pictures belong to them."""
    # A run shorter than the interval of validation has no best epoch: its last one counts.
    state = read_checkpoint(best.best_model_path or Path(str(best.dirpath)) / "last.ckpt")
    weights = {k: v for k, v in state["state_dict"].items() if k.startswith("model.")}
    module.load_state_dict(weights, strict=False)
    # The epochs' histories are complete; this pass belongs to none of them.
    trainer.loggers = []
    return _validate(trainer, module, data)


def _validate(trainer: pl.Trainer, module: UnifiedModule, data: DataModule) -> dict[str, Any]:
    trainer.validate(module, data.val_dataloader(), verbose=False)
    scores: dict[str, Any] = {}
    for name, value in trainer.callback_metrics.items():
        if name.startswith("val/"):
            _, task, metric = name.split("/", 2)
            scores.setdefault(task, {})[metric] = float(value)
    return scores


def _report(
    folder: Path,
    module: UnifiedModule,
    data: DataModule,
    scores: Mapping[str, Any],
    facts: Mapping[str, Any],
    config: Config,
) -> None:
    write_results(folder, module.metrics, scores, facts)
    write_history_plot(folder)
    predictor = Predictor(module.built, _device())
    picture = write_comparisons(folder, predictor, data.val_dataset(), config.min_score)
    print_scores(scores, f"{config.name}: {', '.join(config.task)}")
    print(f"run: {folder}\npicture: {picture}")


def _facts(config: Config, built: Built) -> dict[str, Any]:
    codes = {id(p): p for _, code in codes_of(built.model) for p in code.parameters()}
    return {
        "name": config.name,
        "seed": config.seed,
        "tasks": list(built.tasks),
        "parameters": sum(p.numel() for p in built.model.parameters()),
        "code_parameters": sum(p.numel() for p in codes.values()),
        "versions": {
            "unified": __version__, "torch": torch.__version__, "python": platform.python_version()
        },
    }  # fmt: skip


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# --- eval -----------------------------------------------------------------------------------


def evaluate(config: Config) -> dict[str, Any]:
    """Score a checkpoint on the validation split of its data, or of other data."""
    state = read_checkpoint(_needed(config.ckpt, "ckpt", "eval"))
    built = rebuild(state, config)
    data = DataModule(config.data, config.augment, config.seed, built.data.labels)
    data.prepare_data()
    data.serve(built.tasks.values())
    module = UnifiedModule(config, built, data.val_split)
    data.check_labels(data.val_split)
    trainer = _trainer(config, [RichProgressBar(leave=False)], [])
    scores = _validate(trainer, module, data)
    folder = Path(config.out) if config.out else _fresh_folder(f"{config.name}-eval")
    folder.mkdir(parents=True, exist_ok=True)
    if trainer.is_global_zero:
        _report(folder, module, data, scores, _facts(config, built) | {"ckpt": config.ckpt}, config)
    return scores


# --- predict --------------------------------------------------------------------------------


def predict(config: Config) -> dict[str, Any]:
    """Pictures and `predictions.json` for an image, a folder or a glob."""
    files = find_images(_needed(config.source, "source", "predict"))
    built = rebuild(read_checkpoint(_needed(config.ckpt, "ckpt", "predict")), config)
    predictor = Predictor(built, _device())
    folder = Path(config.out) if config.out else _fresh_folder(f"{config.name}-predict")
    folder.mkdir(parents=True, exist_ok=True)
    labels = built.data.labels
    results: list[dict[str, Any]] = []
    broken: list[str] = []
    for file in files:
        try:
            rgb = read_upright(file)
        except DataError as error:
            # One bad file among many must not cost the results of the others.
            log.warning("%s", error)
            broken.append(str(file))
            continue
        prediction = predictor.predict(rgb)
        size = {"file": str(file), "height": rgb.shape[0], "width": rgb.shape[1]}
        results.append(size | to_plain(prediction, labels, config.min_score))
        picture = draw_prediction(rgb, prediction, labels, config.min_score)
        save_picture(picture, folder / f"{file.stem}.jpg")
    (folder / "predictions.json").write_text(json.dumps(results))
    print(f"predicted {len(results)} of {len(files)} images → {folder}")
    if not results:
        raise DataError(f"none of the {len(files)} images could be read", f"look at {broken[0]}")
    return {"images": len(results), "out": str(folder), "broken": broken}


def find_images(source: str) -> list[Path]:
    """Files that `source` names: an image, a folder of images or a glob.

    Raises:
        DataError: nothing matches.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    else:
        files = [Path(p) for p in sorted(glob.glob(source, recursive=True)) if Path(p).is_file()]
    if not files:
        raise DataError(
            f"source={source} matches no image",
            "give an image, a folder of images or a quoted glob",
        )
    return files


def _needed(value: str | None, key: str, command: str) -> str:
    if value is None:
        raise ConfigError(f"{command} needs {key}", f"unified {command} {key}=…")
    return value


# --- info -----------------------------------------------------------------------------------


def info(config: Config) -> dict[str, Any]:
    """Parameters and FLOPs by trunk, heads and codes."""
    if config.ckpt:
        built = rebuild(read_checkpoint(config.ckpt), config)
    else:
        data = DataModule(config.data, config.augment, config.seed)
        data.prepare_data()
        built = build(config, data.spec())
    cost = measure_cost(built.model, config.data.image_size)
    print_cost(cost, config.data.image_size)
    return cost


COMMANDS = {"train": train, "eval": evaluate, "predict": predict, "info": info}
