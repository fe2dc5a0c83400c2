"""The Lightning module: joint optimisation, nothing specific to a task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from unified.build import CHECKPOINT_KEY, Built, describe
from unified.data.coco import CocoSplit
from unified.errors import DataError
from unified.implicit.bank import codes_of
from unified.inference import decode_all
from unified.ops.losses import zero_of
from unified.protocols import Metric
from unified.schema import Config
from unified.specs import Batch, Upstream
from unified.weighting import build_weighting, task_total

SCORE = "score"
"""Mean of the tasks' primary metrics: what `best.ckpt` is best in."""


class UnifiedModule(pl.LightningModule):
    """Trains and validates all tasks of a run together.

    Args:
        config: the run.
        built: network and tasks.
        truth: the annotated split that validation scores against.
    """

    def __init__(self, config: Config, built: Built, truth: CocoSplit) -> None:
        super().__init__()
        self.config, self.built = config, built
        self.model = built.model
        self.tasks = built.tasks
        memories = {n: getattr(t, "memory", None) for n, t in built.tasks.items()}
        self.memories = nn.ModuleDict({n: m for n, m in memories.items() if m is not None})
        self.weighting = build_weighting(config.weighting, list(built.tasks))
        self.metrics: dict[str, Metric] = {n: t.metric(truth) for n, t in built.tasks.items()}

    def forward(self, images: Tensor) -> dict[str, dict[str, Tensor]]:
        out: dict[str, dict[str, Tensor]] = self.model(images)
        return out

    def training_step(self, batch: Batch, index: int) -> Tensor:
        features = self.model.extract(batch.images)
        outputs = self.model.discriminate(features)
        upstream: Upstream = {}
        losses = {n: t.loss(outputs[n], batch, upstream) for n, t in self.tasks.items()}
        self._refuse_nan(losses, batch)
        totals = {n: task_total(losses[n], t.loss_weights) for n, t in self.tasks.items()}
        # Levels that no head reads take part with nothing: DDP waits for every parameter.
        total: Tensor = self.weighting(totals) + zero_of(features)
        logs = {f"train/{n}/{k}": v.detach() for n, part in losses.items() for k, v in part.items()}
        count = len(batch.metas)
        self.log_dict(logs, on_step=False, on_epoch=True, batch_size=count, sync_dist=True)
        self.log(
            "train/loss",
            total.detach(),
            on_step=True,
            on_epoch=True,
            prog_bar=True,
            batch_size=count,
            sync_dist=True,
        )
        return total

    def _refuse_nan(self, losses: Mapping[str, Mapping[str, Tensor]], batch: Batch) -> None:
        """Stop at the first loss that is not finite; checkpoints written so far stay good."""
        values = {f"{n}.{k}": v for n, part in losses.items() for k, v in part.items()}
        finite = torch.stack([v.detach() for v in values.values()]).isfinite()
        if not bool(finite.all()):
            culprit = list(values)[int((~finite).nonzero()[0])]
            files = ", ".join(Path(m.file).name for m in batch.metas[:4])
            raise DataError(
                f"loss {culprit} is {float(values[culprit])} at step {self.global_step}, "
                f"batch with {files}, …",
                "lower optim.lr, or look at these images' annotations; go on with "
                "resume=<run> from the last epoch",
            )

    # --- Validation ---------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        for metric in self.metrics.values():
            metric.reset()

    def validation_step(self, batch: Batch, index: int) -> None:
        found = decode_all(self.tasks, self(batch.images), batch)
        for name, metric in self.metrics.items():
            metric.update(found[name], batch)

    def on_validation_epoch_end(self) -> None:
        scores = {n: metric.compute() for n, metric in self.metrics.items()}
        values = {f"val/{n}/{k}": v for n, part in scores.items() for k, v in part.items()}
        primary = [scores[n][metric.primary] for n, metric in self.metrics.items()]
        values[SCORE] = sum(primary) / len(primary)
        self.log_dict({k: torch.tensor(v, dtype=torch.float64) for k, v in values.items()})

    # --- Optimisation -------------------------------------------------------------------

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Trunk, heads and codes; no decay on codes, class codes, biases and norms."""
        c = self.config.optim
        # Slots of one task may share a code: each parameter once.
        codes = {id(p): p for _, code in codes_of(self.model) for p in code.parameters()}
        parts = {"trunk": self.model.trunk, "heads": self.model.heads, "weighting": self.weighting}
        groups = []
        for name, module in parts.items():
            decayed = {
                id(m.weight)
                for m in module.modules()
                if isinstance(m, (nn.Conv2d, nn.Linear)) and m.weight is not None
            }
            parameters = [p for p in module.parameters() if id(p) not in codes]
            for group, decay, chosen in (
                (name, c.weight_decay, [p for p in parameters if id(p) in decayed]),
                (f"{name}.no_decay", 0.0, [p for p in parameters if id(p) not in decayed]),
            ):
                if chosen:
                    groups.append(
                        {"name": group, "params": chosen, "lr": c.lr, "weight_decay": decay}
                    )
        if codes:
            groups.append(
                {
                    "name": "codes",
                    "params": list(codes.values()),
                    "lr": c.lr * c.code_lr,
                    "weight_decay": 0.0,
                }
            )
        return groups

    def configure_optimizers(self) -> Any:
        c = self.config.optim
        groups = self.parameter_groups()
        optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(groups, betas=(c.momentum, 0.999))
            if c.name == "adamw"
            else torch.optim.SGD(groups, momentum=c.momentum, nesterov=True)
        )
        total = max(int(self.trainer.estimated_stepping_batches), 1)
        epochs = max(self.trainer.max_epochs or 1, 1)
        warmup = min(max(round(total / epochs * c.warmup_epochs), 1), total)

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            progress = (step - warmup) / max(total - warmup, 1)
            return c.final_lr + (1 - c.final_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CHECKPOINT_KEY] = describe(self.config, self.built.data)
