"""`metrics.csv`: one row per epoch."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger

from unified.errors import DataError
from unified.files import whole
from unified.module import UnifiedModule


class History(Logger):
    """Writes the table, and goes on with that of a resumed run."""

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
        with whole(self.file) as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows[epoch] for epoch in sorted(self.rows))


class RowBeforeCheckpoint(Callback):
    """Writes an epoch's row before `last.ckpt`.

    Lightning logs after it saves: a run killed in between would resume behind a gap.
    """

    def __init__(self, history: History) -> None:
        self.history = history

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, UnifiedModule)
        row = pl_module.train_row() | pl_module.rates() | {"epoch": trainer.current_epoch}
        self.history.log_metrics(row, trainer.global_step - 1)


def read_history(file: Path) -> list[dict[str, float]]:
    """Rows of a `metrics.csv`, without the cells that are empty.

    Raises:
        DataError: it is damaged.
    """
    try:
        with file.open(newline="") as stream:
            rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(stream)]
    except (ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{file} is damaged: {error}", "restore it, or move it away") from error
    if any("epoch" not in row for row in rows):
        raise DataError(f"{file} has a row without an epoch", "restore it, or move it away")
    return rows
