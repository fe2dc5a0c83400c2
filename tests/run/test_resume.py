"""Going on with a run: only with the state of this very training, and never over others' files."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from unified.data.datamodule import DataModule
from unified.errors import ConfigError

Command = Callable[..., subprocess.CompletedProcess[str]]


def at_step(state: dict[str, Any], step: int, of_loop: bool = False) -> None:
    """What says how many steps were made says another number."""
    state["global_step"] = state["lr_schedulers"][0]["last_epoch"] = step
    if of_loop:
        loop = state["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]
        loop["optimizer"]["step"]["total"]["completed"] = step


STATES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no optimiser": (lambda s: s.update(optimizer_states=None), "no state of a training"),
    "another optimiser": (lambda s: s.update(optimizer_states=[]), "no state of a training"),
    "no schedule": (lambda s: s.pop("lr_schedulers"), "no state of a training"),
    "no step of the schedule": (
        lambda s: s["lr_schedulers"][0].pop("last_epoch"), "no state of a training",
    ),
    "no parameters": (
        lambda s: s["optimizer_states"][0]["param_groups"][0].pop("params"), "no state",
    ),
    "one group fewer": (
        lambda s: s["optimizer_states"][0]["param_groups"].pop(), "groups of parameters are",
    ),
    "a parameter twice": (
        lambda s: s["optimizer_states"][0]["param_groups"][0]["params"].__setitem__(1, 0),
        "not numbered one after the other",
    ),
    "another group": (
        lambda s: s["optimizer_states"][0]["param_groups"][0].update(name="other"), "'other'",
    ),
    "no loops": (lambda s: s.update(loops=None), "no state of a training"),
    "no callbacks": (lambda s: s.pop("callbacks"), "no state of a training"),
    "no version": (lambda s: s.update({"pytorch-lightning_version": "x"}), "no state"),
    "another place of the schedule": (
        lambda s: s["lr_schedulers"][0].update(last_epoch=0),
        "the schedule of rates stands at step 0, the run at step",
    ),
    **{
        f"moments {name}": (
            lambda s, own=own: s["optimizer_states"][0]["state"][0].update(own), said,
        )
        for name, own, said in (
            ("of another shape", {"exp_avg": torch.zeros(3)}, "exp_avg of parameter 0 is (3,)"),
            ("of no shape", {"exp_avg": torch.tensor(0.0)}, "exp_avg of parameter 0 is ()"),
            ("that are none", {"exp_avg_sq": None}, "exp_avg_sq of parameter 0 is missing"),
            ("of no number", {"step": torch.tensor(float("nan"))}, "step of parameter 0 is not"),
            ("of no step", {"step": torch.tensor(0.0)}, "step of parameter 0 is below 1"),
            ("of a later step", {"step": torch.tensor(1e30)}, "is 1e+30, the run at step"),
            ("of another name", {"other": torch.tensor(1.0)}, "other of parameter 0 is of nothing"),
            ("of few numbers", {"exp_avg": torch.zeros(3).to_sparse()}, "is no plain tensor"),
            ("of none", {"exp_avg": torch.zeros(3, device="meta")}, "is no plain tensor"),
            ("of whole numbers", {"exp_avg": torch.zeros(3, dtype=torch.int64)}, "is no plain"),
            ("of 8 bits", {"exp_avg": torch.zeros(3).to(torch.float8_e4m3fn)}, "is no plain"),
        )
    },
    "moments below zero": (
        lambda s: s["optimizer_states"][0]["state"][0]["exp_avg_sq"].sub_(1),
        "exp_avg_sq of parameter 0 is below 0",
    ),
    "moments of a parameter that is not there": (
        lambda s: s["optimizer_states"][0]["state"].update({9999: {"step": torch.tensor(1.0)}}),
        "step of parameter 9999 is of nothing that learns",
    ),
    "the first step": (lambda s: at_step(s, 0), "error: the loop over batches stands at step"),
    "the first step of the loop, too": (
        lambda s: at_step(s, 0, of_loop=True), "the run at step 0, and it has 2 epochs",
    ),
    **{
        f"another epoch, as of {', '.join(counts)}": (
            lambda s, c=counts: s["loops"]["fit_loop"]["epoch_progress"]["current"].update(c),
            "the loop over epochs stands in epoch 1, the run at step",
        )
        for counts in ({"processed": 0}, {"started": 0, "ready": 0}, {"completed": 500})
    },
    "no count of all epochs": (
        lambda s: s["loops"]["fit_loop"]["epoch_progress"].pop("total"), "field `total`",
    ),
    "no moments": (
        lambda s: s["optimizer_states"][0].update(state={}), "exp_avg of parameter 0 is missing",
    ),
}  # fmt: skip


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_that_has_ended_says_how_to_go_on(run: Path, run_command: Command) -> None:
    ended = run_command("train", "resume=run", "optim.lr=0.001", cwd=run.parent)
    assert "nothing was left to learn after 2 epochs" in ended.stdout
    assert "optim.lr" not in ended.stdout, "nothing learns at another rate"
    for word, said in (
        ("trainer.max_epochs=1", "trainer.max_epochs=1, and the run has 2 epochs behind it"),
        ("+trainer.max_steps=1", "trainer.max_steps=1, and the run has "),
    ):
        fewer = run_command("train", "resume=run", word, cwd=run.parent, check=False)
        assert said in fewer.stderr
    longer = run_command("train", "resume=run", "trainer.max_epochs=3", cwd=run.parent)
    assert "nothing was left" not in longer.stdout
    assert json.loads((run / "results.json").read_text())["epochs"] == 3


@pytest.mark.parametrize("name", STATES)
def test_a_state_that_is_none_is_refused(name: str, run: Path, run_command: Command) -> None:
    change, said = STATES[name]
    state = torch.load(run / "last.ckpt", weights_only=True)
    change(state)
    torch.save(state, run / "last.ckpt")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    refused = run_command(
        "train", "resume=run", "trainer.max_epochs=3", cwd=run.parent, check=False
    )
    assert refused.returncode == 2, refused.stderr
    assert said in refused.stderr
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_results_of_a_shorter_training_go_when_a_longer_one_begins(
    run: Path, run_command: Command
) -> None:
    """They say that the run is complete."""
    code = (
        "import sys, unified.run.train as t; t._evaluate_best = lambda *a: sys.exit(3); "
        "sys.argv = ['unified', 'train', 'resume=run', *sys.argv[1:]]; "
        "from unified.cli import main; main()"
    )
    for word, left in (("optim.lr=0.001", True), ("trainer.max_epochs=3", False)):
        done = subprocess.run([sys.executable, "-c", code, word], cwd=run.parent, check=False)
        assert done.returncode == 3
        assert (run / "results.json").is_file() == left


def test_tasks_in_another_order_are_refused(run: Path, run_command: Command) -> None:
    """The optimiser knows parameters by their place: moments of one would serve another."""
    config = OmegaConf.load(run / "config.yaml")
    config.task = dict(reversed(list(config.task.items())))
    OmegaConf.save(config, run / "config.yaml")
    refused = run_command(
        "train", "resume=run", "trainer.max_epochs=3", cwd=run.parent, check=False
    )
    assert refused.returncode == 2
    assert "another order" in refused.stderr


@pytest.mark.parametrize(
    "name", [".lock", ".last.ckpt.partial", "curves.png", "tensorboard", "panoptic/1.png"]
)
def test_links_out_of_a_run_are_not_written_through(
    name: str, run: Path, run_command: Command
) -> None:
    victim = run.parent / "victim"
    victim.write_text("mine")
    if (run / name).is_dir():
        shutil.rmtree(run / name)
    (run / name).unlink(missing_ok=True)
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(victim)
    refused = run_command(
        "train", "resume=run", "trainer.max_epochs=3", cwd=run.parent, check=False
    )
    assert refused.returncode == 2
    assert victim.read_text() == "mine"


def test_within_an_epoch_it_goes_on_with_the_same_images_a_step(make: Callable) -> None:
    made = make("task=[classification]", "data.batch_size=8")
    data: DataModule = made.data
    data.load_state_dict({"epoch": 3, "batches": 0, "images": 4})  # at its end, others will do
    data.load_state_dict({"epoch": 3, "batches": 2, "images": 8})
    with pytest.raises(ConfigError, match="of 4 images a step, and would go on with 8"):
        data.load_state_dict({"epoch": 3, "batches": 2, "images": 4})
    views = ["task=[detection,classification]", "task.classification.view=weak"]
    shared = make(*views, "data.batch_size=10", "augment.weak.share=0.25").data
    with pytest.raises(ConfigError, match="of 5 images a step, and would go on with 8"):
        shared.load_state_dict({"epoch": 3, "batches": 2, "images": 5})


def test_a_run_that_was_killed_while_it_began_starts_anew(
    small: list[str], run_command: Command, tmp_path: Path
) -> None:
    """Its configuration is there before anything else."""
    given = [*small, "trainer=smoke", "out=run"]
    code = (
        "import sys, os, signal; import unified.run.train as t; "
        "t.build = lambda *a: os.kill(os.getpid(), signal.SIGKILL); "
        "sys.argv = ['unified', 'train', *sys.argv[1:]]; "
        "from unified.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, *given], cwd=tmp_path, check=False)
    assert done.returncode == -9
    run_command("train", "resume=run", cwd=tmp_path)
    assert (tmp_path / "run" / "results.json").is_file()


def test_a_run_without_its_pictures_is_not_complete(
    small: list[str], run_command: Command, tmp_path: Path
) -> None:
    """What died while it reported is gone on with: `results.json` is the last of its files."""
    code = (
        "import sys, os, signal; import unified.run.report as r; "
        "r.write_comparisons = lambda *a: os.kill(os.getpid(), signal.SIGKILL); "
        "sys.argv = ['unified', 'train', *sys.argv[1:]]; "
        "from unified.cli import main; main()"
    )
    given = [*small, "trainer=smoke", "out=run"]
    done = subprocess.run([sys.executable, "-c", code, *given], cwd=tmp_path, check=False)
    assert done.returncode == -9
    assert not (tmp_path / "run" / "results.json").exists()
    run_command("train", "resume=run", cwd=tmp_path)
    for name in ("results.json", "predictions.jpg"):
        assert (tmp_path / "run" / name).is_file()


def test_predictions_outlive_a_full_disk(trained: Path, shapes: Path, tmp_path: Path) -> None:
    """What was said of the images before it was full is still json."""
    code = "import sys; from unified.cli import main; main()"
    arguments = ["predict", f"ckpt={trained}", f"source={shapes / 'val'}", "out=seen"]
    most = 300_000
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "min_score=0"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "cannot be written: File too large" in done.stderr
    rows = json.loads((tmp_path / "seen" / "predictions.json").read_text())
    assert 0 < len(rows) < 12


@pytest.mark.parametrize("left", ["results.json", "metrics.csv"])
def test_a_run_whose_first_epoch_was_its_best_is_not_trained_over(
    left: str, run: Path, run_command: Command
) -> None:
    state = torch.load(run / "best.ckpt", weights_only=True)
    torch.save(state | {"epoch": 0}, run / "best.ckpt")
    (run / "last.ckpt").unlink()
    (run / ({"results.json", "metrics.csv"} - {left}).pop()).unlink()
    refused = run_command("train", "resume=run", cwd=run.parent, check=False)
    assert refused.returncode == 2
    assert "has no last.ckpt to go on with" in refused.stderr


def test_a_refused_start_takes_nothing_that_was_there(
    small: list[str], run_command: Command, tmp_path: Path
) -> None:
    """Hidden files and folders make no run, and are somebody's own."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").touch()
    (tmp_path / ".bashrc").touch()
    refused = run_command(
        "train", *small, "+trainer.no_such_argument=3", "out=.", cwd=tmp_path, check=False
    )
    assert refused.returncode == 2
    assert "no_such_argument" in refused.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == [".bashrc", ".git"]
    assert (tmp_path / ".git" / "config").is_file()


def test_a_refused_start_leaves_the_empty_folder_that_was_given(
    small: list[str], run_command: Command, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    run_command(
        "train", *small, "+trainer.no_such_argument=3", "out=mine", cwd=tmp_path, check=False
    )
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize(("weighting", "optim"), [("dwa", "sgd"), ("balance", "adamw")])
def test_what_weighting_and_optimiser_have_learnt_goes_on(
    small: list[str], run_command: Command, tmp_path: Path, weighting: str, optim: str
) -> None:
    """Their numbers are saved beside averaged weights, and read again."""
    tasks = "task=[detection,classification]"
    run_command(
        "train", *small, tasks, f"weighting={weighting}", f"optim={optim}", "trainer=smoke",
        "logger=none", "out=run", cwd=tmp_path,
    )  # fmt: skip
    run_command("train", "resume=run", "trainer.max_epochs=3", cwd=tmp_path)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert rows[2]["factor/classification"] != rows[0]["factor/classification"]
