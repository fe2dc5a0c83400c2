"""`unified train`: where it starts from, and what it leaves."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unified.errors import ConfigError, DataError
from unified.implicit.bank import codes_of
from unified.weights import network_of, read_checkpoint, start_from

Command = Callable[..., subprocess.CompletedProcess[str]]
THREE = "task=[detection,classification,embedding]"


def equal(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> set[str]:
    """Names of a model's tensors that are those of a file."""
    return {n for n, t in model.state_dict().items() if n in tensors and torch.equal(t, tensors[n])}


def test_weights_of_the_same_network_are_all_taken(trained: Path, make: Callable) -> None:
    """From the file for use, from the file to go on with, and from the folder."""
    for file in (trained / "best.ckpt", trained / "last.ckpt", trained):
        model = make(THREE).model
        tensors = network_of(read_checkpoint(file))
        start_from(file, model)
        assert equal(model, tensors) == set(tensors)


def test_new_tasks_and_codes_start_anew_and_are_listed(
    trained: Path, make: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    """Shared tensors are taken; what is new or left over is said by name and shape."""
    model = make("task=[detection,stuff]", "implicit=network").model
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = network_of(read_checkpoint(trained))
    with caplog.at_level(logging.INFO):
        start_from(trained, model)
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
    model = make(*overrides).model
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError, match=culprit) as refused:
        start_from(trained, model)
    assert "in the network" in str(refused.value) or "in the file" in str(refused.value)
    assert equal(model, fresh) == set(fresh), "nothing is taken halfway"


def test_weights_that_are_not_there_are_named(tmp_path: Path, make: Callable) -> None:
    with pytest.raises(DataError, match="absent"):
        start_from(tmp_path / "absent.ckpt", make("task=[detection]").model)


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


def test_best_is_for_use_and_last_to_go_on_with(trained: Path) -> None:
    """The file for use holds the network, what describes it, and nothing of the training."""
    best, last = (torch.load(trained / f"{n}.ckpt", weights_only=True) for n in ("best", "last"))
    assert set(best) == {"unified", "epoch", "global_step", "state_dict"}
    assert {"optimizer_states", "lr_schedulers", "loops"} <= set(last)
    assert set(network_of(best)) == set(network_of(last))
    weights = sum(t.nbytes for t in best["state_dict"].values())
    assert (trained / "best.ckpt").stat().st_size < 1.3 * weights
    assert not any("memory" in name for name in best["state_dict"])


def test_every_code_of_the_file_is_in_the_network(trained: Path, make: Callable) -> None:
    """The test of new codes above would be empty if there were none."""
    assert list(codes_of(make(THREE).model))
    assert any(".code." in name for name in network_of(read_checkpoint(trained)))
