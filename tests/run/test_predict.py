"""`unified predict`: nothing is overwritten, nothing that was said is ignored."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import unified
from unified.run.predict import picture_names

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def photo(shapes: Path, tmp_path: Path) -> Path:
    """A file of the user's."""
    target = tmp_path / "photo.jpg"
    shutil.copy(next((shapes / "val").glob("*.jpg")), target)
    return target


@pytest.mark.parametrize("taken", ["photo.jpg", "predictions.json"])
def test_no_file_is_overwritten(
    taken: str, trained: Path, photo: Path, run_command: Command, tmp_path: Path
) -> None:
    """Neither the source nor the results of an earlier call; refused before any work."""
    folder = tmp_path if taken == photo.name else tmp_path / "earlier"
    folder.mkdir(exist_ok=True)
    (folder / taken).touch()
    before = {file: file.read_bytes() for file in folder.iterdir()}
    arguments = [f"ckpt={trained}", "source=photo.jpg", f"out={folder}"]
    refused = run_command("predict", *arguments, cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert taken in refused.stderr
    assert "another folder" in refused.stderr
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_sources_of_one_stem_have_pictures_of_their_own(
    trained: Path, photo: Path, run_command: Command, tmp_path: Path
) -> None:
    for folder, name, size in (("a", "x.jpg", 40), ("b", "x.png", 50), ("b", "x-2.jpg", 60)):
        (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
        with Image.open(photo) as image:
            image.resize((size, size)).save(tmp_path / "in" / folder / name)
    run_command("predict", f"ckpt={trained}", "source=in/*/*", "out=seen", cwd=tmp_path)
    rows = json.loads((tmp_path / "seen" / "predictions.json").read_text())
    assert len({row["picture"] for row in rows}) == len(rows) == 3
    for row in rows:
        with Image.open(tmp_path / "seen" / row["picture"]) as picture:
            assert picture.width == 2 * row["width"], "small pictures are drawn at twice their size"


@given(st.lists(st.sampled_from(["a", "a-2", "a-2-2", "a-3", "b"]), max_size=12))
def test_pictures_have_different_names(stems: list[str]) -> None:
    names = picture_names([Path(f"{number}/{stem}.png") for number, stem in enumerate(stems)])
    assert len(set(names)) == len(stems)
    assert all(name.startswith(stem) for name, stem in zip(names, stems, strict=True))


def test_the_size_of_the_input_is_honoured(
    trained: Path, photo: Path, run_command: Command, tmp_path: Path
) -> None:
    """A network sees a photo at the size that is asked for, and says so in other boxes."""
    seen = []
    for size in (64, 128):
        run_command(
            "predict", f"ckpt={trained}", "source=photo.jpg", "min_score=0.0001",
            f"data.image_size={size}", f"out=at{size}", cwd=tmp_path,
        )  # fmt: skip
        (row,) = json.loads((tmp_path / f"at{size}" / "predictions.json").read_text())
        seen.append(row["detection"])
        assert all(0 <= x <= row["width"] for found in row["detection"] for x in found["box"][::2])
    assert seen[0] != seen[1]


@pytest.mark.parametrize("shape", [(3000, 1), (1, 3000), (3000, 9)])
def test_a_thin_picture_is_a_picture(shape: tuple[int, int], trained: Path, tmp_path: Path) -> None:
    """At an eighth of its size, one side would be gone."""
    file = tmp_path / "thin.jpg"
    Image.new("RGB", shape, (200, 30, 30)).save(file)
    found = unified.load(trained).predict(file)
    assert set(found) == {"detection", "classification", "embedding"}


@pytest.mark.parametrize("command", ["eval", "predict"])
@pytest.mark.parametrize(
    ("override", "culprit"),
    [
        ("task.classification.width=32", "tasks.classification.head"),
        ("task.detection.per_level=2", "tasks.detection.head"),
        ("data.image_size=70", "70"),
        ("trunk=yolor_csp", "trunk"),
        (
            "task.detection.anchors=[[[9,9],[12,9],[9,12]],[[20,20],[30,20],[20,30]],[[40,40],[50,50],[60,60]]]",
            "task.detection.anchors",
        ),
    ],
)
def test_another_network_than_the_checkpoints_is_refused(
    command: str, override: str, culprit: str, trained: Path, photo: Path, run_command: Command,
    tmp_path: Path,
) -> None:  # fmt: skip
    """By the name of the tensor or key; nothing is written."""
    source = ["source=photo.jpg"] if command == "predict" else []
    refused = run_command(
        command, f"ckpt={trained}", *source, override, "out=seen", cwd=tmp_path, check=False
    )
    assert refused.returncode == 2
    assert culprit in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "seen").exists()
