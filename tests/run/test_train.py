"""`unified train`: where it starts from, and what it leaves."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unified.checkpoint import config_of, network_of, read_checkpoint
from unified.errors import ConfigError, DataError
from unified.implicit.bank import codes_of
from unified.run.cost import flops_of, measure_cost
from unified.weights import rebuild, start_from

Command = Callable[..., subprocess.CompletedProcess[str]]
THREE = "task=[detection,classification,embedding]"


def start(file: Path, made: Any) -> None:
    """As a training with `weights=FILE` does."""
    config = replace(made.config, weights=str(file))
    start_from(config, read_checkpoint(file), made.model, made.spec.spaces)


def equal(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> set[str]:
    """Names of a model's tensors that are those of a file."""
    return {n for n, t in model.state_dict().items() if n in tensors and torch.equal(t, tensors[n])}


def test_weights_of_the_same_network_are_all_taken(trained: Path, make: Callable) -> None:
    """From the file for use, from the file to go on with, and from the folder."""
    for file in (trained / "best.ckpt", trained / "last.ckpt", trained):
        tensors = network_of(read_checkpoint(file))
        made = make(THREE)
        start(file, made)
        assert equal(made.model, tensors) == set(tensors)


def test_new_tasks_and_codes_start_anew_and_are_listed(
    trained: Path, make: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    """Shared tensors are taken; what is new or left over is said by name and shape."""
    made = make("task=[detection,stuff]", "implicit=network")
    model = made.model
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = network_of(read_checkpoint(trained))
    with caplog.at_level(logging.INFO):
        start(trained, made)
    same = equal(model, tensors)
    assert {n for n in tensors if n.startswith("trunk.")} <= same
    assert any(name.startswith("tasks.detection.head.") for name in same)
    for name, tensor in model.state_dict().items():
        if name.startswith("tasks.stuff.") or ".code." in name:
            assert torch.equal(tensor, fresh[name])
            assert f"{name} {tuple(tensor.shape)} is not in the file" in caplog.text or (
                f"{name} is {tuple(tensor.shape)} in the network" in caplog.text
            )
    left = next(name for name in tensors if name.startswith("tasks.embedding."))
    assert f"{left} {tuple(tensors[left].shape)} is in the file only" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "culprit"),
    [
        ([THREE, "task.classification.width=32"], "tasks.classification.head"),
        (["task=[detection]", "trunk=yolor_csp"], "trunk."),
        (["task=[detection]", "trunk.stem=8"], "trunk."),
    ],
)
def test_weights_of_another_network_are_refused(
    overrides: list[str], culprit: str, trained: Path, make: Callable
) -> None:
    made = make(*overrides)
    model = made.model
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError, match=culprit) as refused:
        start(trained, made)
    assert "in the network" in str(refused.value) or "in the file" in str(refused.value)
    assert equal(model, fresh) == set(fresh), "nothing is taken halfway"


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent"):
        read_checkpoint(tmp_path / "absent.ckpt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04"])
def test_files_that_are_no_checkpoints_are_named(content: bytes, tmp_path: Path) -> None:
    """Without torch's advice to load them unsafely."""
    file = tmp_path / "junk.ckpt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"junk\.ckpt cannot be read") as caught:
        read_checkpoint(file)
    assert "weights_only" not in str(caught.value)


def test_anchors_stay_those_of_the_data_at_hand(trained: Path, make: Callable) -> None:
    """They are measured, not learnt: at twice the size of the inputs they are twice as large."""
    made = make("task=[detection]", "data.image_size=128")
    head = made.model.named_tasks()["detection"].head
    fresh = head.anchors.clone()
    start(trained, made)
    assert torch.equal(head.anchors, fresh)
    saved = network_of(read_checkpoint(trained))["tasks.detection.head.anchors"]
    torch.testing.assert_close(fresh, 2 * saved, rtol=0.05, atol=0.5)


def test_weights_for_other_classes_are_refused(
    trained: Path, make: Callable, shapes: Path, tmp_path: Path
) -> None:
    """Of the same number, so that every shape fits."""
    root = tmp_path / "renamed"
    shutil.copytree(shapes, root)
    for file in (root / "annotations").glob("instances_*.json"):
        document = json.loads(file.read_text())
        document["categories"][0]["name"] = "teapot"
        file.write_text(json.dumps(document))
    made = make("task=[detection]", f"data.root={root}")
    with pytest.raises(ConfigError, match=r"other objects than these.*teapot"):
        start(trained, made)


@pytest.mark.parametrize(
    ("overrides", "culprit"),
    [
        (["task.stuff.view=gentle"], "gentle"),
        (["task.stuff.view=[strong,weak]"], "strong"),
        (["task=[detection,embedding]", "task.embedding.views=strong"], "expected list"),
        (["task=[detection,embedding]", "task.embedding.views=[]"], "expected list"),
        (["data.sources.pixels=os.system"], "no reader of pixels"),
        (["data.sources.pixels=unified.data.coco.objects.Objects"], "no reader of pixels"),
        (["task=[detection,embedding]", "task.embedding.views=[strong,weak]", "data.batch_size=1"],
         "data.batch_size=1"),
    ],
)  # fmt: skip
def test_impossible_asks_are_refused_before_anything_is_written(
    overrides: list[str], culprit: str, small: list[str], run_command: Command, tmp_path: Path
) -> None:
    refused = run_command(
        "train", *small, "task=[stuff]", *overrides, "out=run", cwd=tmp_path, check=False
    )
    assert refused.returncode == 2
    assert culprit in refused.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["results.json", "metrics.csv", "mine.txt"])
def test_a_run_does_not_mix_with_other_files(
    name: str, small: list[str], run_command: Command, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    refused = run_command("train", *small, "trainer=smoke", "out=run", cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "no empty folder" in refused.stderr
    assert [f.name for f in (tmp_path / "run").iterdir()] == [name]
    assert (tmp_path / "run" / name).read_text() == "mine"


def test_training_starts_from_weights(
    trained: Path, small: list[str], run_command: Command, tmp_path: Path
) -> None:
    """With a learning rate of next to nothing, the network is still that of the file."""
    said = run_command(
        "train", *small, "trainer=smoke", "optim.lr=1e-12", "optim.ema_decay=0", "logger=none",
        "task=[detection,stuff]", f"weights={trained}", "out=run", cwd=tmp_path,
    )  # fmt: skip
    assert "tasks.stuff.head" in said.stdout + said.stderr
    ours = network_of(read_checkpoint(tmp_path / "run"))
    theirs = network_of(read_checkpoint(trained))
    shared = [n for n in ours if n in theirs and n.endswith("weight")]
    assert any(n.startswith("tasks.detection") for n in shared)
    for name in shared:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "culprit", "fix"),
    [
        (["train", "ckpt=RUN"], "train does not use ckpt", "weights=RUN"),
        (["train", "source=x.jpg"], "train does not use source", "predict"),
        (["train", "resume=RUN", "weights=RUN"], "its own weights", "weights"),
        (["train", "resume=RUN", "out=x"], "its own folder", "out"),
        (["train", "weights=absent"], "absent", "best.ckpt"),
        (["train", "weights="], "weights= is empty", "leave weights out"),
        (["eval", "weights=RUN"], "eval does not use weights", "train"),
        (["predict", "resume=RUN", "source=x"], "predict does not use resume", "train"),
        (["info", "out=x"], "info does not use out", "eval"),
    ],
)
def test_nothing_that_is_said_is_ignored(
    arguments: list[str], culprit: str, fix: str, trained: Path, small: list[str],
    run_command: Command, tmp_path: Path,
) -> None:  # fmt: skip
    given = [argument.replace("RUN", str(trained)) for argument in arguments]
    if arguments[-1] == "weights=absent":
        given += [*small, "out=run"]
    refused = run_command(*given, cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert culprit in refused.stderr
    assert fix in refused.stderr.split("fix:")[1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "culprit"),
    [
        ("task.embedding.dim=32", "tasks.embedding.head"),
        ("task.detection.anchors=[[[8,8]],[[16,16]],[[32,32]]]", "task.detection.anchors"),
        ("optim=sgd", "optim.name=sgd"),
    ],
)
def test_a_resume_that_is_refused_leaves_the_run_as_it_was(
    override: str, culprit: str, trained: Path, run_command: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = {file: file.read_bytes() for file in run.iterdir() if file.is_file()}
    refused = run_command("train", f"resume={run}", override, cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert culprit in refused.stderr
    assert {file: file.read_bytes() for file in run.iterdir() if file.is_file()} == before


def test_a_resumed_run_goes_on_with_the_rates_that_it_is_told(
    trained: Path, run_command: Command, tmp_path: Path
) -> None:
    """What the guard advises where numbers run away: `optim.lr` lower, and go on."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = torch.load(run / "last.ckpt", weights_only=True)
    told = run_command(
        "train", f"resume={run}", "trainer.max_epochs=3", "optim.lr=0.001", "optim.trunk_lr=2",
        "optim.momentum=0.8", "optim.weight_decay=0.1", cwd=tmp_path,
    )  # fmt: skip
    assert "optim.lr was 0.004, and is 0.001 from here on" in told.stdout
    assert told.stdout.count("from here on") == 4, "of what is another, and of nothing else"
    after = torch.load(run / "last.ckpt", weights_only=True)
    assert after["epoch"] > before["epoch"]
    groups = after["optimizer_states"][0]["param_groups"]
    base = [0.002 if group["name"].startswith("trunk") else 0.001 for group in groups]
    assert after["lr_schedulers"][0]["base_lrs"] == base
    assert [group["initial_lr"] for group in groups] == base
    shares = {group["lr"] / rate for group, rate in zip(groups, base, strict=True)}
    assert len({round(share, 9) for share in shares}) == 1
    for old, new in zip(before["optimizer_states"][0]["param_groups"], groups, strict=True):
        assert new["betas"][0] == 0.8
        assert new["weight_decay"] == (0.1 if old["weight_decay"] else 0)


def test_best_is_for_use_and_last_to_go_on_with(trained: Path) -> None:
    """The file for use holds the network, what describes it, and nothing of the training."""
    best, last = (torch.load(trained / f"{n}.ckpt", weights_only=True) for n in ("best", "last"))
    assert set(best) == {"unified", "epoch", "global_step", "state_dict"}
    assert {"optimizer_states", "lr_schedulers", "loops"} <= set(last)
    assert set(network_of(best)) == set(network_of(last))
    weights = sum(t.nbytes for t in best["state_dict"].values())
    assert (trained / "best.ckpt").stat().st_size < 1.3 * weights
    assert not any("memory" in name for name in best["state_dict"])


def test_results_tell_of_the_network_as_it_was_trained(trained: Path) -> None:
    """Not of the fused one, which makes the pictures."""
    results = json.loads((trained / "results.json").read_text())
    state = read_checkpoint(trained)
    config = config_of(trained, state)
    model, _ = rebuild(state, config)

    def size() -> tuple[int, int]:
        cost = measure_cost(model, config.data.image_size)
        return sum(p.numel() for p in model.parameters()), flops_of(cost)

    assert (results["parameters"], results["flops"]) == size()
    model.fuse()
    assert (results["parameters"], results["flops"]) != size()


def test_every_code_of_the_file_is_in_the_network(trained: Path, make: Callable) -> None:
    """The test of new codes above would be empty if there were none."""
    assert list(codes_of(make(THREE).model))
    assert any(".code." in name for name in network_of(read_checkpoint(trained)))


def test_a_training_that_fails_ends_with_its_workers(small: list[str], tmp_path: Path) -> None:
    """Workers wait for what their parent decides, and it is no more."""
    code = (
        "import sys, unified.data.datamodule as d; d.PATIENCE = 100_000; "
        "sys.argv = ['unified', 'train', *sys.argv[1:]]; "
        "from unified.cli import main; main()"
    )
    words = ["task=[detection]", "trainer=smoke", "logger=none", "optim.lr=1e30", "out=run"]
    done = subprocess.run(
        [sys.executable, "-c", code, *small, "data.workers=6", *words],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "is not finite" in done.stderr
    assert "Traceback" not in done.stderr
    assert "is killed by signal" not in done.stderr
