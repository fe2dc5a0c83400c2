"""`unified eval`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_a_run_without_a_progress_bar_is_scored(
    small: list[str], run_command: Command, tmp_path: Path
) -> None:
    """What training was told of its bar goes for the evaluation of its checkpoint."""
    run_command(
        "train", *small, "task=[classification]", "trainer=smoke", "logger=none",
        "trainer.enable_progress_bar=false", "out=run", cwd=tmp_path,
    )  # fmt: skip
    run_command("eval", "ckpt=run", "out=scored", cwd=tmp_path)
    ours, theirs = (
        json.loads((tmp_path / folder / "results.json").read_text())["metrics"]
        for folder in ("scored", "run")
    )
    assert ours["classification"] == pytest.approx(theirs["classification"], abs=1e-9)


def test_two_processes_make_one_folder(trained: Path, run_command: Command, tmp_path: Path) -> None:
    """Without `out`, as with it, and with the scores of one process."""
    run_command(
        "eval", f"ckpt={trained}", "trainer.devices=2", "trainer.strategy=ddp", cwd=tmp_path
    )
    (folder,) = (tmp_path / "runs").glob("*/*")
    ours = json.loads((folder / "results.json").read_text())["metrics"]
    theirs = json.loads((trained / "results.json").read_text())["metrics"]
    for task, values in theirs.items():
        assert ours[task] == pytest.approx(values, abs=1e-6)


SPY = """
import sys
from unified.cli import main
from unified.module import UnifiedModule
plain = UnifiedModule.validation_step
def spy(self, batch, index):
    for meta in batch.metas:
        print(f"saw {self.global_rank} {meta.image_id}", file=open("seen.txt", "a"))
    return plain(self, batch, index)
UnifiedModule.validation_step = spy
main()
"""


def test_two_processes_share_the_images(trained: Path, tmp_path: Path) -> None:
    """Each scores half of them."""
    (tmp_path / "spy.py").write_text(SPY)
    subprocess.run(
        [sys.executable, "spy.py", "eval", f"ckpt={trained}", "trainer.devices=2",
         "trainer.strategy=ddp", "out=scored"],
        cwd=tmp_path, check=True, timeout=600, capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    seen = [line.split()[1:] for line in (tmp_path / "seen.txt").read_text().splitlines()]
    assert len(seen) == len({image for _, image in seen}) == 12
    assert [rank for rank, _ in seen].count("0") == 6


def test_earlier_results_are_not_overwritten(
    trained: Path, run_command: Command, tmp_path: Path
) -> None:
    before = (trained / "results.json").read_bytes()
    refused = run_command("eval", f"ckpt={trained}", f"out={trained}", cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "no empty folder" in refused.stderr
    assert (trained / "results.json").read_bytes() == before
