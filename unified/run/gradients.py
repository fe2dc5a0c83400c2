"""How hard every task pulls at the trunk, and whither."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from unified.batch import Batch
from unified.implicit.bank import codes_of
from unified.model import UnifiedModel
from unified.module import UnifiedModule, reach
from unified.weighting.values import task_total, values_of

TRUNK = "trunk"
"""Where all parameters of the trunk are meant; other places are levels of its pyramid."""
COSINE = "cosine/"
"""Begins the name of a column, which ends with that of the other task."""
Pulls = dict[str, dict[str, Tensor]]
"""Place → task → what the task's loss sends there, (N,) float32."""
Row = dict[str, Any]


def pulls(module: UnifiedModule, batch: Batch) -> Pulls:
    """What every task's weighted loss sends to the trunk's parameters, and to each level.

    Nothing of the module changes: neither its gradients nor statistics of norms, nor what losses
    remember.
    """
    model = copy.deepcopy(module.model).train()
    tasks, factors = model.named_tasks(), module.weighting.factors()
    rows = {name: batch.rows(task.views) for name, task in tasks.items()}
    features = model.extract(batch.images)
    outputs = model.discriminate(dict.fromkeys(tasks, features), rows)
    losses = model.losses(outputs, batch, rows)
    learnt, _ = values_of(losses)
    weights = [p for p in model.trunk.parameters() if p.requires_grad]
    found: Pulls = {place: {} for place in (TRUNK, *features)}
    for name, task in tasks.items():
        total = factors[name] * task_total(learnt[name], task.loss_weights) + reach(features)
        sent = torch.autograd.grad(
            total, [*features.values(), *weights], retain_graph=True, materialize_grads=True
        )
        flat = [gradient.float().flatten() for gradient in sent]
        for place, gradient in zip(features, flat, strict=False):
            found[place][name] = gradient
        found[TRUNK][name] = torch.cat(flat[len(features) :])
    return found


def compared(found: Pulls) -> Iterator[Row]:
    """Of every place and task: the norm, and the cosine with every task; 0 with what is 0."""
    for place, own in found.items():
        products = torch.stack(list(own.values()))
        products = (products @ products.T).cpu()
        norms = products.diagonal().sqrt()
        cosines = products / (norms[:, None] * norms).clamp(min=torch.finfo(norms.dtype).tiny)
        cosines = cosines.clamp(-1, 1)
        for name, norm, row in zip(own, norms.tolist(), cosines.tolist(), strict=True):
            others = {f"{COSINE}{other}": value for other, value in zip(own, row, strict=True)}
            yield {"where": place, "task": name, "norm": norm, **others}


def code_numbers(model: UnifiedModel) -> dict[str, Tensor]:
    """`<task>/<slot>` of every slot that is filled → what is learnt for it, (N,) float32."""
    return {
        f"{name}/{slot}": torch.cat([p.detach().float().flatten() for p in code.parameters()])
        for name, task in model.named_tasks().items()
        for slot, code in codes_of(task.head)
    }


def mean_pulls(rows: Sequence[Row], place: str) -> dict[str, dict[str, float]]:
    """Task → norm and cosines at a place, by the mean of the later half of all looks."""
    steps = sorted({row["step"] for row in rows})
    later = steps[len(steps) // 2]
    own = [row for row in rows if row["where"] == place and row["step"] >= later]
    means = {}
    for name in dict.fromkeys(row["task"] for row in own):
        of_task = [row for row in own if row["task"] == name]
        keys = [key for key in of_task[0] if key == "norm" or key.startswith(COSINE)]
        means[name] = {k: sum(row[k] for row in of_task) / len(of_task) for k in keys}
    return means
