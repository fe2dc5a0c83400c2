"""The Lightning module: joint optimisation, nothing specific to a task."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from unified.batch import Batch
from unified.checkpoint import ABOUT, describe
from unified.data.split import Split
from unified.guard import FiniteGuard
from unified.implicit.bank import codes_of, penalty
from unified.means import EpochMeans
from unified.model import Outputs, UnifiedModel
from unified.schema import Config
from unified.task import DataSpec, Metric
from unified.weighting.build import build_weighting
from unified.weighting.values import task_total, values_of

log = logging.getLogger(__name__)
SCORE = "score"
"""Mean of the tasks' primary metrics, each from 0 to 1: what `best.ckpt` is best in."""
LOSS = "loss"
"""Name of the joint loss among those of the tasks."""
MEANS = "epoch_means"
"""Key of the epoch's losses so far in what a training is saved with."""


class UnifiedModule(pl.LightningModule):
    """Trains and validates all tasks of a run together.

    Args:
        config: the run.
        model: network and tasks.
        data: what they were built from.
        truth: the annotated images that validation scores against.
    """

    def __init__(
        self,
        config: Config,
        model: UnifiedModel,
        data: DataSpec,
        truth: Split,
    ) -> None:
        super().__init__()
        self.config, self.model, self.data = config, model, data
        self.tasks = model.named_tasks()
        self.weighting = build_weighting(config.weighting, list(self.tasks))
        self.metrics: dict[str, Metric] = {
            name: task.metric(truth.sources[task.truth.kind]) for name, task in self.tasks.items()
        }
        self.folders = {n: truth.folders_of[task.truth.kind] for n, task in self.tasks.items()}
        self.guard, self.means = FiniteGuard(), EpochMeans()

    def __deepcopy__(self, memo: dict[int, Any]) -> UnifiedModule:
        """A copy of the weights, to average; annotations and results stay one and the same."""
        shared_ones = (self.config, self.data, self.tasks, self.metrics, self.guard, self.means)
        for shared in shared_ones:
            memo[id(shared)] = shared
        copied: UnifiedModule = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        return copied

    def forward(self, images: Tensor) -> Outputs:
        outputs: Outputs = self.model(images)
        return outputs

    def on_train_start(self) -> None:
        """The schedule of a run that goes on has its checkpoint's rates: it is told its own."""
        (optimizer,), (config,) = self.trainer.optimizers, self.trainer.lr_scheduler_configs
        schedule, groups = cast(LambdaLR, config.scheduler), optimizer.param_groups
        schedule.base_lrs = [group["initial_lr"] for group in groups]
        for group, factor in zip(groups, schedule.lr_lambdas, strict=True):
            group["lr"] = group["initial_lr"] * factor(schedule.last_epoch)

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        # What a step draws depends on its place only, so a run that goes on draws the same.
        place = (self.config.seed, self.current_epoch, index, self.global_rank)
        (state,) = np.random.SeedSequence(place).generate_state(1, np.uint64)
        torch.manual_seed(int(state))

    def training_step(self, batch: Batch, index: int) -> Tensor:
        rows = {name: batch.rows(task.views) for name, task in self.tasks.items()}
        features = self.model.extract(batch.images)
        outputs = self.model.discriminate(self.weighting.enter(features), rows)
        learnt, seen = values_of(self.model.losses(outputs, batch, rows))
        named = {f"{task}/{name}": v for task, own in seen.items() for name, v in own.items()}
        self.guard.note(self.global_step, named, batch.metas)
        total, count = self._join(seen).detach(), len(batch.metas)
        # The same in all processes: nothing is left to be reduced.
        self.means.add(named | {LOSS: total}, count)
        self.log(f"{LOSS}_step", total, prog_bar=True, batch_size=count)
        return self._join(learnt) + reach(features, *outputs.values())

    def _join(self, values: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        """One loss, with what codes add to it."""
        totals = {n: task_total(values[n], task.loss_weights) for n, task in self.tasks.items()}
        joint: Tensor = self.weighting(totals)
        codes = penalty(self.model)
        return joint if codes is None else joint + codes

    def on_train_epoch_start(self) -> None:
        self.means.reset()

    def on_train_epoch_end(self) -> None:
        self.guard.read()
        self.log_dict(self.train_row() | self.rates())
        self.weighting.end_epoch(self._epoch_totals())

    def train_row(self) -> dict[str, float]:
        """`train/<task>/<loss>` → its mean of this epoch; `factor/<task>` of the weighting now."""
        means = {f"train/{name}": value for name, value in self.means.read().items()}
        return means | {f"factor/{name}": f for name, f in self.weighting.factors().items()}

    def rates(self) -> dict[str, float]:
        """`rate/<trunk|tasks|weighting|codes>` → learning rate of the last step."""
        (optimizer,), (config,) = self.trainer.optimizers, self.trainer.lr_scheduler_configs
        schedule = cast(LambdaLR, config.scheduler)
        return {
            f"rate/{group['name'].split('.')[0]}": float(rate) * factor(schedule.last_epoch - 1)
            for group, rate, factor in zip(
                optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
            )
        }

    def _epoch_totals(self) -> dict[str, float]:
        """Task → its loss, by the mean of this epoch; NaN before the first step."""
        means = self.means.read()
        return {
            name: sum(
                task.loss_weights.get(loss, 1.0) * means.get(f"{name}/{loss}", math.nan)
                for loss in task.losses
            )
            for name, task in self.tasks.items()
        }

    # --- Validation ---------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self.guard.read()
        for metric in self.metrics.values():
            metric.reset()

    def validation_step(self, batch: Batch, index: int) -> None:
        rows = {name: batch.rows(task.checked_views) for name, task in self.tasks.items()}
        features = self.model.extract(batch.images)
        outputs = self.model.discriminate(dict.fromkeys(self.tasks, features), rows)
        self.guard.note(self.global_step, extremes(outputs), batch.metas)
        found = self.model.decode(outputs, batch)
        for name, metric in self.metrics.items():
            chosen = rows[name]
            metas = batch.metas if chosen is None else [batch.metas[row] for row in chosen]
            own = [row for row, meta in enumerate(metas) if meta.folder == self.folders[name]]
            metric.update([found[name][row] for row in own], [metas[row] for row in own])

    def on_validation_epoch_end(self) -> None:
        self.guard.read()
        scores = self.score()
        values = {f"val/{n}/{k}": v for n, part in scores.items() for k, v in part.items()}
        primary = [m.share(scores[n][m.primary]) for n, m in self.metrics.items()]
        # A metric of things that the split does not have is NaN, and says nothing.
        values[SCORE] = float(np.nanmean(primary)) if not np.isnan(primary).all() else 0.0
        self.log_dict({k: torch.tensor(v, dtype=torch.float64) for k, v in values.items()})

    def score(self) -> dict[str, dict[str, float]]:
        """Every task's metrics, computed by the first process from the results of all."""
        for metric in self.metrics.values():
            metric.gather()
        scores: dict[str, dict[str, float]] = {}
        if self.trainer.is_global_zero:
            for name, metric in self.metrics.items():
                found = metric.compute()  # what tasks are compared by comes first, in every table
                scores[name] = {metric.primary: found[metric.primary]} | found
        return self.trainer.strategy.broadcast(scores)

    # --- Optimisation -------------------------------------------------------------------

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Trunk, tasks and codes; no decay on codes, class codes, biases and norms."""
        c = self.config.optim
        # Slots of one task may share a code: each parameter once.
        codes = {id(p): p for _, code in codes_of(self.model) for p in code.parameters()}
        parts = {"trunk": self.model.trunk, "tasks": self.model.tasks, "weighting": self.weighting}
        groups = []
        for name, module in parts.items():
            decayed = {
                id(m.weight)
                for m in module.modules()
                if isinstance(m, (nn.Conv2d, nn.Linear)) and m.weight is not None
            }
            parameters = [p for p in module.parameters() if id(p) not in codes]
            rate = c.lr * (c.trunk_lr if name == "trunk" else 1)
            for group, decay, chosen in (
                (name, c.weight_decay, [p for p in parameters if id(p) in decayed]),
                (f"{name}.no_decay", 0.0, [p for p in parameters if id(p) not in decayed]),
            ):
                if chosen:
                    groups.append(
                        {"name": group, "params": chosen, "lr": rate, "weight_decay": decay}
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
            # One by one, hundreds of small tensors cost more than they hold work. Fused, it would
            # unscale mixed precision's gradients behind the back of clipping.
            torch.optim.AdamW(
                groups,
                betas=(c.momentum, 0.999),
                fused=True if self.trainer.precision == "32-true" else None,
            )
            if c.name == "adamw"
            else torch.optim.SGD(groups, momentum=c.momentum, nesterov=True)
        )
        optimizer.register_load_state_dict_pre_hook(_with_own_settings)
        total, warmup = self._schedule()

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            progress = (step - warmup) / max(total - warmup, 1)
            return c.final_lr + (1 - c.final_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))

        schedule = LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _schedule(self) -> tuple[int, int]:
        """Steps of the whole run and of its warm-up."""
        self.trainer.fit_loop.setup_data()  # num_training_batches is infinite before
        steps = self.trainer.estimated_stepping_batches
        epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        total = max(int(steps), 1)
        if epoch * self.config.optim.warmup_epochs >= total:
            log.warning(
                "all of the %d steps are warm-up: optim.warmup_epochs=%s",
                total, self.config.optim.warmup_epochs,
            )  # fmt: skip
        return total, min(max(round(epoch * self.config.optim.warmup_epochs), 1), total)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[ABOUT] = describe(self.config, self.data)
        checkpoint[MEANS] = self.means.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if MEANS in checkpoint:
            self.means.load_state_dict(checkpoint[MEANS])


def extremes(outputs: Outputs) -> dict[str, Tensor]:
    """`<task>/<output>` → its largest value: not finite where one of them is not."""
    return {
        f"{task}/{name}": value.detach().abs().amax()
        for task, own in outputs.items()
        for name, value in own.items()
        if value.numel()
    }


def reach(*outputs: Mapping[str, Tensor]) -> Tensor:
    """A scalar zero whose gradient reaches every parameter behind the outputs.

    Processes wait for each other's gradients of every parameter; a step without labels of a task,
    or a level that no head reads, must not leave one out.
    """
    means = [value.float().mean() for part in outputs for value in part.values()]
    return torch.stack(means).sum() * 0.0


def _with_own_settings(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> dict[str, Any]:
    """A run that goes on takes an optimiser's moments, and learns as it is told now."""
    groups = [
        own | {"params": saved["params"]}
        for own, saved in zip(optimizer.param_groups, state["param_groups"], strict=True)
    ]
    return {**state, "param_groups": groups}
