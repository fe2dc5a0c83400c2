"""The page `docs/add_a_task.md`, as it stands: its files work, outside of the package."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from unified.run.history import read_history

PAGE = Path(__file__).resolve().parent.parent / "docs" / "add_a_task.md"
FILE = re.compile(r"^`(depth/[\w./]+)`\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```\nexport PYTHONPATH=\.\n(.*?)^```$", re.MULTILINE | re.DOTALL)
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """The files of the page, and images with a depth that rises to the top, but for the last."""
    folder = tmp_path_factory.mktemp("outside")
    for name, text in FILE.findall(PAGE.read_text()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    data = folder / "my" / "data"
    shutil.copytree(shapes, data)
    for split in ("train", "val"):
        annotations = data / "annotations"
        document = json.loads((annotations / f"instances_{split}.json").read_text())
        images = document["images"]
        (annotations / f"depth_{split}.json").write_text(json.dumps({"images": images}))
        (annotations / f"depth_{split}").mkdir()
        for image in images[:-1]:
            ramp = np.linspace(9000, 1000, image["height"]).astype(np.uint16)
            pixels = np.repeat(ramp[:, None], image["width"], 1)
            file = (annotations / f"depth_{split}" / image["file_name"]).with_suffix(".png")
            cv2.imwrite(str(file), pixels)
    shutil.copy(next((data / "val").glob("*.jpg")), folder / "photo.jpg")
    return folder


@pytest.fixture(scope="module")
def commands(folder: Path, run_command: Command) -> dict[str, str]:
    """What the page's commands print; the first of them trains two steps."""
    found = COMMANDS.search(PAGE.read_text())
    assert found
    small = [
        "data.image_size=64", "data.batch_size=8",
        "data.workers=1", "trainer.accelerator=cpu", "trainer.max_epochs=1",
        "trainer.limit_train_batches=2", "logger=none",
    ]  # fmt: skip
    printed = {}
    for line in found[1].splitlines():
        program, command, *arguments = shlex.split(line)
        assert program == "unified"
        more = small if command == "train" else []
        done = run_command(command, *arguments, *more, cwd=folder, PYTHONPATH=".")
        printed[command] = done.stdout
    return printed


def test_the_page_has_every_file(folder: Path) -> None:
    names = re.findall(r"^\| .*? \| `(depth/\w+\.py)` \|", PAGE.read_text(), re.MULTILINE)
    assert len(names) == 5
    assert all((folder / name).is_file() for name in names)
    assert len(list((folder / "depth" / "conf").glob("*/depth.yaml"))) == 2


def test_it_trains_with_codes(folder: Path, commands: dict[str, str]) -> None:
    rows = read_history(folder / "run" / "metrics.csv")
    assert float(rows[-1]["train/depth/depth"]) > 0
    assert json.loads((folder / "run" / "results.json").read_text())["code_parameters"] > 0


def test_it_is_scored_as_in_training(folder: Path, commands: dict[str, str]) -> None:
    ours, theirs = (
        json.loads((folder / name / "results.json").read_text())["metrics"]["depth"]
        for name in ("run", "scored")
    )
    assert ours == pytest.approx(theirs)
    assert set(ours) == {"delta1", "AbsRel", "RMSE"}
    assert ours["AbsRel"] > 0
    assert "delta1" in commands["eval"]
    rows = json.loads((folder / "scored" / "depth.json").read_text())
    assert len(rows) == 11, "the image without a PNG is not scored"


def test_it_predicts_and_draws(folder: Path, commands: dict[str, str]) -> None:
    (row,) = json.loads((folder / "seen" / "predictions.json").read_text())
    assert 0 < row["depth"]["nearest"] < row["depth"]["farthest"]
    with Image.open(folder / "seen" / row["picture"]) as picture:
        with_depth = np.asarray(picture, np.int16)
    with Image.open(folder / "photo.jpg") as photo:
        assert with_depth.shape[1] >= 2 * 2 * photo.width, "objects and depth have panels"
    halves = np.array_split(with_depth, 2, axis=1)
    size = min(half.shape[1] for half in halves)
    assert np.abs(halves[0][:, :size] - halves[1][:, :size]).mean() > 20
    for name in ("train_batch.jpg", "predictions.jpg"):
        assert (folder / "run" / name).is_file()
