"""Real runs, killed at any moment and resumed, beside the same run left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

COMMON = (
    "data.shapes.train=32",
    "data.shapes.val=8",
    "data.shapes.test=0",
    "data.shapes.size=64",
    "data.image_size=64",
    "data.batch_size=8",
    "data.workers=2",
    "data.root=data",
    "trainer.max_epochs=3",
    "trainer.accelerator=cpu",
    "trainer.check_val_every_n_epoch=1",
    "logger=none",
)
CASES: Mapping[str, tuple[str, ...]] = {
    "defaults": (),
    "mosaic, pixels": ("experiment=iseg", "augment=strong"),
    "two views": ("task.embedding.views=[strong,weak]", "augment=strong", "data.batch_size=16"),
    "no averaging": ("optim=sgd", "optim.lr=0.005", "optim.ema_decay=0", "weighting=uncertainty"),
    "by steps": (
        "trainer.max_epochs=-1", "+trainer.max_steps=10", "trainer.accumulate_grad_batches=2",
        "data.batch_size=4",
    ),
}  # fmt: skip
"""Name → overrides: averaged weights, memory, augmentation, mosaic, views, schedules."""


def start(
    folder: Path,
    *arguments: str,
    program: Sequence[str] = ("-m", "unified.cli"),
    **environment: str,
) -> subprocess.Popen[str]:
    """`unified train …` in a session of its own; what it says goes to `<folder>/said.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    log = (folder / "said.txt").open("w")
    return subprocess.Popen(
        [sys.executable, *program, "train", *arguments],
        cwd=folder, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", **environment},
    )  # fmt: skip


def finish(folder: Path, *arguments: str) -> float:
    """Seconds that a run takes when nothing happens to it."""
    began = time.monotonic()
    process = start(folder, *arguments)
    if process.wait(timeout=600):
        raise AssertionError(f"{arguments} failed:\n{(folder / 'said.txt').read_text()[-4000:]}")
    return time.monotonic() - began


def kill_and_resume(folder: Path, overrides: tuple[str, ...], seconds: float, number: int) -> str:
    """Send a signal after some seconds, then go on as a user would; says what it interrupted."""
    process = start(folder, *overrides, "out=run")
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        send = os.killpg if number == signal.SIGKILL else os.kill
        send(process.pid, number)
        process.wait(timeout=120)
    run = folder / "run"
    stage = _stage(folder)
    again = ("resume=run",) if (run / "config.yaml").is_file() else (*overrides, "out=run")
    finish(folder, *again)
    return stage


def _stage(folder: Path) -> str:
    """How far a run had come."""
    run = folder / "run"
    if not (folder / "data").is_dir():
        return "generating data"
    if not (run / "config.yaml").is_file():
        return "starting"
    if (run / "results.json").is_file():
        return "reporting"
    return "training" if (run / "last.ckpt").is_file() else "first epoch"


def differences(whole: Path, other: Path) -> list[str]:
    """What two run folders do not have in common, bit for bit."""
    found = []
    for name in ("last.ckpt", "best.ckpt"):
        states = [torch.load(run / name, weights_only=True) for run in (whole, other)]
        mine, yours = (dict(_leaves(_lasting(state))) for state in states)
        found += [f"{name}: {key}" for key in mine.keys() ^ yours.keys()]
        found += [f"{name}: {k}" for k in mine.keys() & yours.keys() if not same(mine[k], yours[k])]
    if (whole / "metrics.csv").read_bytes() != (other / "metrics.csv").read_bytes():
        found.append("metrics.csv")
    scores = [json.loads((run / "results.json").read_text())["metrics"] for run in (whole, other)]
    if not same(*map(json.dumps, scores)):
        found.append("results.json")
    return found


def same(mine: Any, yours: Any) -> bool:
    """Equal to the bit; NaN is NaN."""
    if isinstance(mine, torch.Tensor):
        if not isinstance(yours, torch.Tensor) or mine.shape != yours.shape:
            return False
        return bool(((mine == yours) | (mine.isnan() & yours.isnan())).all())
    return bool(mine == yours)


def _lasting(state: Mapping[str, Any]) -> dict[str, Any]:
    """Of a checkpoint, what the weights to come depend on."""
    names = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")
    names += ("lr_schedulers", "epoch", "global_step", "epoch_means")
    return {name: state[name] for name in names if name in state}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from _leaves(part, f"{path}.{index}")
    else:
        yield path, value
