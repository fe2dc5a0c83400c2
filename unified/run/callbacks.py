"""What a run does beside its steps: averages weights, draws its first batch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from unified.batch import Batch
from unified.files import whole
from unified.module import LOSS, UnifiedModule
from unified.run.pictures import draw_batch, save_picture


class RampedEMA(WeightAveraging):
    """Exponential moving average whose decay rises from 0, so that short runs average too.

    decay(n) = decay · (1 − exp(−n / ramp)) after n steps.
    """

    def __init__(self, decay: float, ramp: int) -> None:
        def average(averaged: list[Tensor], current: list[Tensor], _: Tensor | int) -> None:
            keep = decay * (1 - math.exp(-self.count / max(ramp, 1)))
            if averaged[0].is_floating_point():
                torch._foreach_lerp_(averaged, current, 1 - keep)
            else:
                torch._foreach_copy_(averaged, current)

        super().__init__(multi_avg_fn=average)

    @property
    def count(self) -> int:
        """Steps so far."""
        assert self._average_model is not None
        return int(self._average_model.n_averaged)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # The module is moved to its device later; averages beside it need no copies in between.
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            # Counted on the host, where reading it waits for nothing. What is handed to `average`
            # is a copy on the device, for which torch waits, once for floats and once for integers.
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    # Outside of training, the weights that somebody put into the module are meant.

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_end(trainer, pl_module)


class SavedConfig(Callback):
    """`config.yaml`, before anything else of a run.

    That of a run that is resumed changes when training begins: a refusal leaves it as it was. Then
    what was said of the shorter training is no longer true, and goes.
    """

    def __init__(self, file: Path, text: str, results: Path) -> None:
        self.file, self.text, self.results = file, text, results

    def write_first(self) -> None:
        """Of a new run."""
        if not self.file.exists():
            self._write()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.results.unlink(missing_ok=True)
            self._write()

    def _write(self) -> None:
        with whole(self.file) as file:
            file.write(self.text)


class Stopwatch(Callback):
    """Seconds of training and of its steps alone, those before an interruption included."""

    def __init__(self) -> None:
        self.before, self.began = 0.0, time.monotonic()
        self.stepping, self.steps = 0.0, 0
        self._since, self._first = 0.0, 0

    @property
    def seconds(self) -> float:
        """Of all so far, scoring included."""
        return self.before + time.monotonic() - self.began

    @property
    def step_seconds(self) -> float | None:
        """Of a step with its wait for images, by the mean of what was finished of epochs."""
        return self.stepping / self.steps if self.steps else None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.began = time.monotonic()
        self.on_train_epoch_start(
            trainer, pl_module
        )  # one that goes on within an epoch begins none

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since, self._first = time.monotonic(), trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any
    ) -> None:
        if rest[-1] + 1 == trainer.num_training_batches:  # scoring comes before the epoch's end
            self.stepping += time.monotonic() - self._since
            self.steps += trainer.global_step - self._first

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "stepping": self.stepping, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = float(state_dict["seconds"])
        self.stepping = float(state_dict.get("stepping", 0))
        self.steps = int(state_dict.get("steps", 0))


class EpochLine(Callback):
    """A line per epoch, in a terminal and in a log file: losses, and scores where it was scored."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.began = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, UnifiedModule)
        if not trainer.is_global_zero:
            return
        parts = [f"loss {pl_module.means.read().get(LOSS, math.nan):.4f}"]
        interval = trainer.check_val_every_n_epoch or 1
        if trainer.enable_validation and (trainer.current_epoch + 1) % interval == 0:
            found = trainer.callback_metrics
            for name, metric in pl_module.metrics.items():
                value = float(found.get(f"val/{name}/{metric.primary}", math.nan))
                parts.append(f"{name} {metric.primary} {value:.4f}")
        most = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        seconds = time.monotonic() - self.began
        print(
            f"epoch {trainer.current_epoch + 1}{most}: {', '.join(parts)} ({seconds:.0f} s)",
            flush=True,
        )


class LastValidated(Callback):
    """The last epoch is scored, whatever the interval: every run has a best epoch."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1


class TrainingBatchPicture(Callback):
    """`train_batch.jpg`: the first batch of a run as the network sees it."""

    def __init__(self, folder: Path, spaces: Mapping[str, Any]) -> None:
        self.file, self.spaces = folder / "train_batch.jpg", spaces

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.is_global_zero and not self.file.exists():
            save_picture(draw_batch(batch.to("cpu"), self.spaces), self.file)
