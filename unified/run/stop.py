"""A clean end of training on SIGTERM and Ctrl-C: behind a step, with `last.ckpt` written."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from unified.errors import Stopped
from unified.guard import INTERVAL
from unified.run.checkpoints import LAST

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopOnSignal(Callback):
    """Around all of a training: a signal ends it behind the step that is being made.

    A step can be gone on from to the bit; validation cannot, and is finished first. Outside of
    both, and at a second signal, the end comes at once. Several processes agree now and then.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.stepping = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _listen(self) -> None:
        if self._before:
            for number in SIGNALS:
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received is not None, number
        if again or not self.stepping:
            self._stop()
        # A handler may not print: it may have interrupted just that.
        os.write(2, b"\nstopping behind this step; once more stops at once\n")

    def _stop(self) -> None:
        raise Stopped(self.received or signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._listen()  # Lightning has put in its own, which end with status 0
        self.stepping = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any
    ) -> None:
        index = rest[-1]
        last = index + 1 >= trainer.num_training_batches
        last |= 0 <= trainer.max_steps <= trainer.global_step  # what ends an epoch is still to come
        if last or (index + 1) % trainer.accumulate_grad_batches or not self._agreed(trainer):
            return
        folder = Path(str(trainer.checkpoint_callbacks[0].dirpath))  # type: ignore[attr-defined]
        trainer.save_checkpoint(folder / f"{LAST}.ckpt")
        self._stop()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.strategy.reduce_boolean_decision(self.received is not None, all=False):
            self._stop()  # the end of the epoch before is saved

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stepping = False
        self.on_train_epoch_start(trainer, pl_module)

    def _agreed(self, trainer: pl.Trainer) -> bool:
        """Whether any process was told to stop; several ask each other every `INTERVAL` steps."""
        if trainer.world_size == 1:
            return self.received is not None
        if trainer.global_step % INTERVAL:
            return False
        decision = trainer.strategy.reduce_boolean_decision(self.received is not None, all=False)
        return bool(decision)
