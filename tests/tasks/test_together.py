"""Any tasks learn together: each alone, every pair, all nine."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch

from unified.module import UnifiedModule

NEEDS = {
    "detection": (), "classification": (), "stuff": (), "longtail": (), "caption": (),
    "embedding": ("detection",), "instance": ("detection",), "keypoints": ("detection",),
    "panoptic": ("detection", "instance", "stuff"),
}  # fmt: skip
"""Task → those whose outputs it reads."""
SMALL = ("task.caption.width=32", "task.caption.layers=1", "task.caption.view=strong")


def learn(make: Callable, *chosen: str) -> tuple[Any, UnifiedModule]:
    """Two steps: every task has its losses, from which its head and the trunk learn."""
    tasks = [name for name in NEEDS if name in {*chosen, *(n for c in chosen for n in NEEDS[c])}]
    own = SMALL if "caption" in tasks else ()
    made = make(f"task=[{','.join(tasks)}]", *own, "data.batch_size=4")
    module, batch = made.module().train(), made.batch(4)
    assert set(made.tasks) == set(tasks)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    for index in range(2):
        optimizer.zero_grad()
        module.training_step(batch, index).backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.model.parameters())
    heads = {n: t.head for n, t in made.tasks.items() if list(t.head.parameters())}
    for name, part in {"trunk": made.model.trunk, **heads}.items():
        assert any(p.grad.abs().sum() > 0 for p in part.parameters()), name
    row = module.train_row()
    for name, task in made.tasks.items():
        assert {f"train/{name}/{loss}" for loss in task.losses} <= set(row)
    assert all(value == value for value in row.values())
    return made, module


@pytest.mark.parametrize("task", NEEDS)
def test_every_task_learns_and_is_scored(make: Callable, task: str) -> None:
    made, module = learn(make, task)
    found = module.metrics[task]
    with torch.no_grad():
        module.eval().validation_step(made.batch(2, training=False), 0)
    found.gather()
    assert found.primary in found.compute()


@pytest.mark.parametrize("pair", list(combinations(NEEDS, 2)), ids="+".join)
def test_every_two_tasks_learn_together(make: Callable, pair: tuple[str, str]) -> None:
    learn(make, *pair)


@pytest.mark.parametrize("experiment", ["mtl", "imtl"])
def test_all_nine_are_one_experiment(make: Callable, experiment: str) -> None:
    made = make(f"experiment={experiment}")
    assert set(made.tasks) == set(NEEDS)
    assert made.config.optim.trunk_lr == 1, (
        "a faster trunk is `optim=adamw_joint`, for small images"
    )
    assert made.config.weighting.kind == "balance"
    assert made.config.weighting.tasks == {"detection": 4, "embedding": 2, "caption": 2}
    others = make(f"experiment={experiment}", "optim=adamw_joint", "weighting=fixed").config
    assert (others.optim.trunk_lr, others.weighting.tasks) == (3, {}), "taken away whole"
