"""What a run keeps while it trains: averaged weights, a history, safe checkpoints, a picture."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from unified.pictures import draw_batch, save_picture
from unified.specs import Batch, LabelSpace


class RampedEMA(WeightAveraging):
    """Exponential moving average whose decay rises from 0, so that short runs average too.

    decay(n) = decay · (1 − exp(−n / ramp)) after n steps.
    """

    def __init__(self, decay: float, ramp: int) -> None:
        def average(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
            keep = decay * (1 - math.exp(-int(count) / max(ramp, 1)))
            if averaged[0].is_floating_point():
                torch._foreach_lerp_(averaged, current, 1 - keep)
            else:
                torch._foreach_copy_(averaged, current)

        super().__init__(multi_avg_fn=average)

    # Outside of training, the weights that somebody put into the module are meant.

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_end(trainer, pl_module)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write beside the target and move: a run killed while saving keeps its previous file."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)


class History(Logger):
    """`metrics.csv`: one row per epoch, continued by a resumed run."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.file = folder / "metrics.csv"
        self.rows: dict[int, dict[str, float]] = {}
        if self.file.is_file():
            for row in read_history(self.file):
                counts = {name: int(row[name]) for name in ("epoch", "step") if name in row}
                self.rows[counts["epoch"]] = row | counts

    @property
    def name(self) -> str:
        return "history"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The resolved configuration has a file of its own."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        kept = {k.removesuffix("_epoch"): v for k, v in metrics.items() if not k.endswith("_step")}
        if "epoch" not in kept or len(kept) == 1:
            return
        epoch = int(kept["epoch"])
        row = self.rows.setdefault(epoch, {"epoch": epoch})
        row.update({k: float(v) for k, v in kept.items() if k != "epoch"})
        if step is not None:
            row["step"] = step + 1
        self._write()

    def _write(self) -> None:
        names = ["epoch", "step"]
        for row in self.rows.values():
            names += [name for name in row if name not in names]
        partial = self.file.with_name(".metrics.csv.partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows[epoch] for epoch in sorted(self.rows))
        partial.replace(self.file)


class RowBeforeCheckpoint(Callback):
    """Writes an epoch's row before `last.ckpt`.

    Lightning logs after it saves: a run killed in between would resume behind a gap.
    """

    def __init__(self, history: History) -> None:
        self.history = history

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
        self.history.log_metrics(found | {"epoch": trainer.current_epoch}, trainer.global_step - 1)


def read_history(file: Path) -> list[dict[str, float]]:
    """Rows of a `metrics.csv`, without the cells that are empty."""
    with file.open(newline="") as stream:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(stream)]


class TrainingBatchPicture(Callback):
    """`train_batch.jpg`: the first batch of a run as the network sees it."""

    def __init__(self, folder: Path, labels: LabelSpace | None) -> None:
        self.file, self.labels = folder / "train_batch.jpg", labels

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.is_global_zero and not self.file.exists():
            names: Sequence[str] = self.labels.names if self.labels else ()
            save_picture(draw_batch(batch, names), self.file)
