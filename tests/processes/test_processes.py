"""Two processes are one with twice the batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

EVERYTHING = (
    "task=[detection,classification,embedding,instance,stuff,panoptic,keypoints,longtail,caption]"
)


def run(world: int, folder: Path, overrides: list[str]) -> list[dict[str, Any]]:
    """What every process says, in real processes over gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    out = folder / f"world{world}"
    processes = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("steps.py")), str(rank), str(world),
             port, str(out), *overrides],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    for process in processes:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said[-3000:]
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(world)]


@pytest.mark.parametrize(
    "overrides",
    [
        [EVERYTHING, "implicit=vector", "task.caption.view=strong", "weighting=torchjd"],
        [EVERYTHING, "implicit=none", "task.embedding.views=[strong,weak]", "task.stuff.view=weak",
         "weighting=torchjd", "weighting.method=GeometricMean"],
        [EVERYTHING, "implicit=vector", "weighting=balance"],
    ],
    ids=["one view, torchjd", "two views", "balance"],
)  # fmt: skip
def test_two_processes_are_one_with_twice_the_batch(
    overrides: list[str], small: list[str], tmp_path: Path
) -> None:
    """Losses, gradients and memories, step by step; batch norm is frozen."""
    (one,) = run(1, tmp_path, [*small, *overrides])
    two = run(2, tmp_path, [*small, *overrides])
    for process in two:
        for ours, theirs in zip(process["logged"], one["logged"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)
        for ours, theirs in zip(process["gradients"], one["gradients"], strict=True):
            whole = torch.cat([g.flatten() for g in theirs.values()]).norm()
            for name, gradient in theirs.items():
                gap = (ours[name] - gradient).norm()  # sums of float32 that cancel need room
                assert gap <= 1e-5 * max(gradient.norm(), 1e-1 * whole), name
    if "weighting=balance" in overrides:
        assert one["logged"][-1]["factor/instance"] != one["logged"][0]["factor/instance"] != 1
    memory = next(n for n in one["buffers"] if n.endswith("memory.vectors"))
    count = memory.replace("vectors", "count")
    for process in two:
        assert process["buffers"][count] == one["buffers"][count] > 0
        torch.testing.assert_close(
            process["buffers"][memory].sum(0), one["buffers"][memory].sum(0), rtol=1e-4, atol=1e-4
        )
