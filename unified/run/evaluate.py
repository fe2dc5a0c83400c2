"""`unified eval`: score a checkpoint on the validation split of its data, or of other data."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from unified.checkpoint import read_checkpoint
from unified.data.datamodule import DataModule
from unified.data.prepare import prepare
from unified.module import UnifiedModule
from unified.run.folder import claimed, output_folder, refuse_full
from unified.run.report import report
from unified.run.trainer import make_trainer, validate
from unified.schema import Config, needed
from unified.weights import rebuild


def evaluate(config: Config) -> dict[str, Any]:
    """Every task's metrics."""
    checkpoint = needed(config.ckpt, "ckpt", "eval")
    rank_zero_only(refuse_full)(config.out)
    model, spec = rebuild(read_checkpoint(checkpoint), config)
    prepare(config.data)
    tasks = model.named_tasks()
    data = DataModule(config.data, config.augment, tasks, spec.spaces, None, config.seed)
    module = UnifiedModule(config, model, spec, data.val_split)
    trainer = make_trainer(config.trainer)
    scores = validate(trainer, module, data)
    if trainer.is_global_zero:
        folder = output_folder(config.out, f"{config.name}-eval")
        with claimed(folder):
            refuse_full(str(folder))
            report(folder, module, data.val_dataset(), scores, {"ckpt": checkpoint})
    return scores
