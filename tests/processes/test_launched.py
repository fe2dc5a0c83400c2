"""Two processes of a real command learn as one with twice the batch, whoever starts them."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch
from processes.killing import COMMON, start

SCRIPT = str(Path(__file__).with_name("still.py"))
OVERRIDES = (
    *COMMON, "task=[detection,classification,embedding,instance]", "optim=sgd", "optim.lr=0.002",
    "trainer.max_epochs=2", "trainer.gradient_clip_val=null", "augment=weak", "out=run",
)  # fmt: skip
TWO = ("trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=4")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, on data that it has made."""
    folder = tmp_path_factory.mktemp("alone")
    assert start(folder, *OVERRIDES, program=(SCRIPT,)).wait(timeout=300) == 0
    return folder


@pytest.mark.parametrize(
    ("program", "fresh"), [((SCRIPT,), False), ((*TORCHRUN, SCRIPT), True)],
    ids=["trainer.devices", "torchrun"],
)  # fmt: skip
def test_two_processes_learn_as_one_with_twice_the_batch(
    program: tuple[str, ...], fresh: bool, alone: Path, tmp_path: Path
) -> None:
    """With torchrun on data that are not there yet: one process makes them."""
    if not fresh:
        shutil.copytree(alone / "data", tmp_path / "data")
    process = start(tmp_path, *OVERRIDES, *TWO, program=program)
    try:
        assert process.wait(timeout=300) == 0, (tmp_path / "said.txt").read_text()[-3000:]
    finally:
        process.kill()
    ours, theirs = (losses(folder / "run") for folder in (tmp_path, alone))
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert ours[name] == pytest.approx(values, rel=1e-4), name
    states = [torch.load(f / "run" / "last.ckpt", weights_only=True) for f in (tmp_path, alone)]
    (mine, yours) = (state["state_dict"] for state in states)
    moved = torch.cat([w.flatten() for w in yours.values() if w.is_floating_point()]).norm()
    for name, weight in yours.items():
        if weight.is_floating_point() and "memory" not in name:  # whose rows stand as they came
            assert (mine[name] - weight).norm() <= 1e-4 * max(weight.norm(), 1e-2 * moved), name


def test_processes_that_nobody_joins_are_refused(alone: Path, tmp_path: Path) -> None:
    """Each would be a training of its own, in one folder."""
    shutil.copytree(alone / "data", tmp_path / "data")
    process = start(tmp_path, *OVERRIDES, program=(*TORCHRUN, SCRIPT))
    try:
        assert process.wait(timeout=300) != 0
    finally:
        process.kill()
    said = (tmp_path / "said.txt").read_text()
    assert "torchrun has started 2 processes" in said
    assert "set trainer.devices=2" in said


def losses(run: Path) -> dict[str, list[float]]:
    """Name → what the epochs' rows say of the training."""
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.startswith("train/")]
    assert names
    return {name: [float(row[name]) for row in rows] for name in names}
