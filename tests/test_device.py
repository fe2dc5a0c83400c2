"""On a GPU, where there is one: the same results, and no host that waits."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unified.batch import Batch
from unified.inference import load
from unified.module import UnifiedModule

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions in float32, not in its short form TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


ALL = "task=[detection,classification,embedding,instance,stuff,panoptic,keypoints,longtail,caption]"
SMALL = ("task.caption.width=32", "task.caption.layers=1", "augment.weak.share=0.5")


@pytest.fixture(scope="module")
def on_gpu(
    shapes: Path, small: list[str], run_command: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of all tasks in mixed precision, as it is where nothing is said of the device."""
    folder = tmp_path_factory.mktemp("device") / "run"
    own = [o for o in small if "accelerator" not in o]
    run_command("train", *own, ALL, *SMALL, "trainer=smoke", f"out={folder}", cwd=folder.parent)
    return folder


def test_a_run_is_scored_alike_on_both_devices(
    on_gpu: Path, run_command: Callable, tmp_path: Path
) -> None:
    """Up to a few things: a network that has learnt nothing gives scores that nearly tie."""
    scores = []
    for device in ("cpu", "gpu"):
        options = (f"trainer.accelerator={device}", "trainer.precision=32-true")
        run_command("eval", f"ckpt={on_gpu}", *options, f"out={tmp_path / device}", cwd=tmp_path)
        scores.append(json.loads((tmp_path / device / "results.json").read_text())["metrics"])
    for task, metrics in scores[0].items():
        for name, value in metrics.items():
            if isinstance(value, float):
                assert scores[1][task][name] == pytest.approx(value, abs=0.05), (task, name)


def test_a_training_goes_on(on_gpu: Path, run_command: Callable) -> None:
    run_command("train", f"resume={on_gpu}", "trainer.max_epochs=3", cwd=on_gpu.parent)
    assert len((on_gpu / "metrics.csv").read_text().splitlines()) == 4


def test_what_is_predicted_is_the_same(on_gpu: Path, shapes: Path) -> None:
    files = sorted((shapes / "val").glob("*.jpg"))[:4]
    here, there = (load(on_gpu, device=device).predict_batch(files) for device in ("cpu", "cuda"))
    for one, other in zip(here, there, strict=True):
        first, second = one["detection"], other["detection"]
        assert first.scores[:10].tolist() == pytest.approx(second.scores[:10].tolist(), abs=1e-3)
        assert one["caption"].text == other["caption"].text


def outputs(make: Callable, device: str) -> tuple[UnifiedModule, Batch]:
    made = make(ALL, *SMALL)
    return made.module().to(device), made.batch(4).to(device)


def test_outputs_and_losses_are_the_same(make: Callable) -> None:
    """In float32, in evaluation and in training."""
    (one, batch), (other, there) = outputs(make, "cpu"), outputs(make, "cuda")
    other.load_state_dict(one.state_dict())
    for training in (False, True):
        rows = []
        for module, seen in ((one, batch), (other, there)):
            module.train(training)
            module.means.reset()
            with torch.no_grad():
                module.training_step(seen, 0)
            rows.append(module.train_row())
        assert len(rows[0]) > len(one.tasks)
        assert rows[1] == pytest.approx(rows[0], rel=2e-3, abs=1e-4)


def test_a_step_of_detection_waits_for_its_matches_alone(make: Callable) -> None:
    """Their number decides the shapes of what follows; nothing else of ours asks the device."""
    made = make("task=[detection,classification,stuff]", "task.stuff.view=strong")
    module, batch = made.module().to("cuda").train(), made.batch(4).to("cuda")
    for index in range(2):  # what libraries do once
        module.training_step(batch, index).backward()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            module.training_step(batch, 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [Path(w.filename) for w in told if "synchroniz" in str(w.message)]
    ours = [file.name for file in waits if "site-packages" not in file.parts]
    assert ours == ["matching.py"]
