"""A run that was killed is the run that was not; `tests/bench/kills.py` tries many more."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from processes.killing import CASES, COMMON, differences, finish, start


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    finish(folder, *COMMON, *CASES["two views"], "out=run")
    return folder / "run"


@pytest.fixture(scope="module")
def whole_by_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, of ten steps in two and a half epochs."""
    folder = tmp_path_factory.mktemp("steps")
    finish(folder, *COMMON, *CASES["by steps"], "out=run")
    return folder / "run"


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_killed_run_comes_back_to_the_bit(number: int, whole: Path, tmp_path: Path) -> None:
    """With workers, averaged weights, memory, augmentation, mosaic and two views."""
    process = start(tmp_path, *COMMON, *CASES["two views"], "out=run")
    _wait_for(tmp_path / "run" / "last.ckpt", process)
    time.sleep(random.Random(number).uniform(0.0, 1.0))  # two epochs are left, of half a second
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finish(tmp_path, "resume=run")
    assert not differences(whole, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_behind_a_step_and_says_how_to_go_on(
    number: int, whole: Path, tmp_path: Path
) -> None:
    """In the middle of an epoch, to which the resumed run comes back to the bit."""
    script = str(Path(__file__).with_name("stopping.py"))
    process = start(
        tmp_path, *COMMON, *CASES["two views"], "out=run", program=(script, str(int(number)), "5")
    )
    try:
        assert process.wait(timeout=240) == 128 + number
    finally:
        process.kill()
    said = (tmp_path / "said.txt").read_text()
    assert said.splitlines()[-1] == (
        f"stopped by {signal.Signals(number).name}; go on with: unified train resume=run"
    )
    assert "Traceback" not in said
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 6  # of an epoch of four
    finish(tmp_path, "resume=run")
    assert not differences(whole, tmp_path / "run")


@pytest.mark.parametrize("batch", [7, 19], ids=["the last of an epoch", "the last of all"])
def test_a_run_by_steps_comes_back_to_the_bit(
    batch: int, whole_by_steps: Path, tmp_path: Path
) -> None:
    """Lightning takes a run with max_steps for one that always starts within an epoch."""
    script = str(Path(__file__).with_name("stopping.py"))
    process = start(
        tmp_path, *COMMON, *CASES["by steps"], "out=run",
        program=(script, str(int(signal.SIGTERM)), str(batch)),
    )  # fmt: skip
    try:
        assert process.wait(timeout=240) == 128 + signal.SIGTERM
    finally:
        process.kill()
    finish(tmp_path, "resume=run")
    assert not differences(whole_by_steps, tmp_path / "run")


def test_a_run_that_was_moved_keeps_its_best_epoch(whole: Path) -> None:
    state = torch.load(whole / "last.ckpt", weights_only=True)
    best = next(s for k, s in state["callbacks"].items() if "'monitor': 'score'" in k)
    from unified.run.checkpoints import BEST, Keeper

    moved = Keeper(Path("elsewhere"), BEST, monitor="score", mode="max")
    moved.load_state_dict(best)
    assert moved.best_model_path == str(Path("elsewhere").resolve() / "best.ckpt")
    assert moved.best_model_score == best["best_model_score"]


def _wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not file.is_file():
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_when_one_of_two_processes_is_killed_the_other_ends(tmp_path: Path) -> None:
    """Within a minute, with an error that says so; the run goes on afterwards."""
    two = ("trainer.devices=2", "trainer.strategy=ddp", "data.workers=0", "data.batch_size=4")
    overrides = (*COMMON, *two, "trainer.max_epochs=40", "task=[detection]")
    process = start(tmp_path, *overrides, "out=run")
    try:
        _wait_for(tmp_path / "run" / "last.ckpt", process)
        (other,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(other), signal.SIGKILL)
        assert process.wait(timeout=60) not in (0, None)
    finally:
        process.kill()
    assert "another process of this job has ended" in (tmp_path / "said.txt").read_text()
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    finish(tmp_path, "resume=run", f"trainer.max_epochs={state['epoch'] + 2}")
