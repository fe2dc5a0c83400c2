"""Looks at the tasks' gradients and at the codes."""

from __future__ import annotations

import copy
import csv
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from unified.implicit.bank import codes_of
from unified.run.diagnostics import Diagnostics
from unified.run.gradients import COSINE, TRUNK, code_numbers, compared, mean_pulls, pulls

Command = Callable[..., Any]
EVERY = "diagnose_every_n_steps=2"


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(
    "weighting", [("+weighting.tasks.detection=3", "weighting.scale=0.5"), ("weighting=dwa",)]
)
def test_what_tasks_send_adds_up_to_what_the_step_learns(
    make: Callable, weighting: tuple[str, ...]
) -> None:
    """In every place; norms and cosines say as much of the sum."""
    made = make(*weighting)
    module = made.module().train()
    if weighting == ("weighting=dwa",):
        module.weighting.average.copy_(torch.tensor([0.5, 1.0, 1.5]))
    batch = made.batch()
    twin = copy.deepcopy(module)
    twin.tasks = twin.model.named_tasks()
    found = pulls(module, batch)
    levels: dict[str, torch.Tensor] = {}
    extract = twin.model.extract

    def kept(images: torch.Tensor) -> dict[str, torch.Tensor]:
        levels.update(extract(images))
        for level in levels.values():
            level.retain_grad()
        return levels

    twin.model.extract = kept
    twin.log = lambda *_, **__: None
    twin.training_step(batch, 0).backward()
    joint = {name: level.grad.flatten() for name, level in levels.items()}
    joint[TRUNK] = torch.cat([p.grad.flatten() for p in twin.model.trunk.parameters()])
    assert list(found) == [TRUNK, *levels]
    rows = list(compared(found))
    for place, own in found.items():
        assert list(own) == ["detection", "classification", "embedding"]
        total = sum(own.values())
        torch.testing.assert_close(total, joint[place], rtol=1e-3, atol=1e-6)
        here = {row["task"]: row for row in rows if row["where"] == place}
        square = sum(
            a["norm"] * b["norm"] * a[f"{COSINE}{other}"]
            for a in here.values() for other, b in here.items()
        )  # fmt: skip
        assert square == pytest.approx(float(total.square().sum()), rel=1e-3)  # float32
        assert all(row[f"{COSINE}{task}"] == pytest.approx(1, abs=1e-5)
                   for task, row in here.items() if row["norm"])  # fmt: skip


def test_a_look_changes_nothing(make: Callable) -> None:
    """Neither statistics of norms, nor what losses and weightings remember, nor gradients."""
    made = make("weighting=balance")
    module = made.module().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    pulls(module, made.batch())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_a_task_that_sends_nothing_has_no_direction() -> None:
    rows = list(compared({TRUNK: {"a": torch.zeros(3), "b": torch.ones(3)}}))
    assert [row["norm"] for row in rows] == [0, pytest.approx(3**0.5)]
    assert rows[0][f"{COSINE}b"] == 0 == rows[1][f"{COSINE}a"]


def test_means_are_of_the_later_half() -> None:
    rows = [
        {"step": step, "where": place, "task": "a", "norm": float(step), f"{COSINE}a": 1.0}
        for step in (0, 2, 4, 6)
        for place in (TRUNK, "p3")
    ]
    assert mean_pulls(rows, TRUNK) == {"a": {"norm": 5.0, f"{COSINE}a": 1.0}}


def test_a_run_learns_the_same_and_leaves_tables_and_a_picture(
    small: list[str], run_command: Command, tmp_path: Path, trained: Path
) -> None:
    """Stopped between its epochs and resumed, its tables go on, too."""
    short = [*small, "trainer=smoke", EVERY]
    run_command("train", *short, "out=whole", cwd=tmp_path)
    told = run_command("train", *short, "out=run", "trainer.max_epochs=1", cwd=tmp_path)
    shutil.copytree(tmp_path / "run", tmp_path / "first")
    told = run_command("train", "resume=run", "trainer.max_epochs=2", cwd=tmp_path)
    assert "gradients on the trunk" in told.stdout
    plain, watched = (
        torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (trained, tmp_path / "whole")
    )
    assert all(torch.equal(value, watched[name]) for name, value in plain.items())
    for name in ("gradients.csv", "codes.csv"):
        whole, resumed = (rows_of(tmp_path / run / name) for run in ("whole", "run"))
        first = rows_of(tmp_path / "first" / name)
        assert sorted({int(row["step"]) for row in whole}) == [0, 2, 4]
        assert [row["step"] for row in resumed] == [row["step"] for row in whole]
        assert resumed[: len(first)] == first
    drifts = [float(row["drift"]) for row in rows_of(tmp_path / "whole" / "codes.csv")]
    assert drifts[0] == 0
    assert drifts[-1] > 0
    with Image.open(tmp_path / "whole" / "gradients.png") as picture:
        assert picture.width > 1000
    assert not (trained / "gradients.csv").exists()


def test_drift_is_from_the_first_look_of_the_whole_run(make: Callable, tmp_path: Path) -> None:
    """A run that goes on remembers it."""
    model, before, after = make().model, Diagnostics(tmp_path, 1), Diagnostics(tmp_path, 1)
    assert {row["drift"] for row in before._moved(model)} == {0.0}
    after.load_state_dict(before.state_dict())
    with torch.no_grad():
        for _, code in codes_of(model):
            for parameter in code.parameters():
                parameter += 2
    rows = {row["code"]: row for row in after._moved(model)}
    assert rows["embedding/refine.p3"]["drift"] == pytest.approx(2 * 64**0.5)
    sizes = {name: len(numbers) for name, numbers in code_numbers(model).items()}
    assert all(row["drift"] == pytest.approx(2 * sizes[n] ** 0.5) for n, row in rows.items())


def test_a_step_of_several_batches_is_looked_at_once(make: Callable, tmp_path: Path) -> None:
    made, looks = make(), Diagnostics(tmp_path, 2)
    module, batch = made.module().train(), made.batch()
    for batches, step in enumerate((0, 0, 1, 1, 2, 2)):
        trainer = SimpleNamespace(
            global_step=step, is_global_zero=True,
            precision_plugin=SimpleNamespace(forward_context=nullcontext),
        )  # fmt: skip
        looks.on_train_batch_start(trainer, module, batch, batches)
    steps = [
        row["step"] for row in looks.pulls if (row["where"], row["task"]) == (TRUNK, "detection")
    ]
    assert steps == [0, 2]


def test_only_training_looks(run_command: Command, trained: Path, tmp_path: Path) -> None:
    refused = run_command("eval", f"ckpt={trained / 'best.ckpt'}", EVERY, cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "eval does not use diagnose_every_n_steps" in refused.stderr
