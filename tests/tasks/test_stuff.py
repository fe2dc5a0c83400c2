"""Stuff segmentation: maps through the transforms, losses, maps at the original size."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unified.data.augment import AugmentConfig
from unified.data.coco import CocoSplit
from unified.data.dataset import CocoDataset, collate
from unified.data.geometry import letterbox, warp_labels
from unified.errors import ConfigError, DataError
from unified.ops.pixels import classes_at_original, dice_loss, pixel_loss
from unified.specs import IGNORE, ImageMeta, Sample


def test_maps_follow_the_image(shapes: Path) -> None:
    """Through every transform, what the maps call a thing is what the instances cover."""
    split = CocoSplit(shapes, "train")
    other = split.labels["stuff"].names.index("other")
    augment = AugmentConfig(
        mosaic=0.5, scale=0.4, translate=0.1, flip=0.5, min_side=0, min_visible=0
    )
    dataset = CocoDataset(
        split, 64, augment, map_strides={"instances": 1, "stuff": 1, "panoptic": 1}
    )
    things = [not stuff for stuff in stuff_flags(split)]
    missed, extra = [], []
    for index in range(24):
        (sample,) = dataset[(0, index)]
        stuff, panoptic = sample.maps["stuff"], sample.maps["panoptic"]
        covered = (sample.instances.masks >= 128).any(0)
        missed.append(((stuff == other) & ~covered).mean())
        extra.append((covered & (stuff != other)).mean())
        both = (stuff != IGNORE) & (panoptic != IGNORE)
        assert (np.array(things)[panoptic[both]] == (stuff[both] == other)).all()
    assert np.mean(missed) < 0.02
    assert np.mean(extra) < 0.02


def stuff_flags(split: CocoSplit) -> list[bool]:
    """Per panoptic class, whether it is stuff."""
    kinds = set(split.labels["stuff"].ids)
    return [category in kinds for category in split.labels["panoptic"].ids]


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_map_survives_letterbox_and_back(stride: int) -> None:
    """Classes drawn on the input and sampled at the original pixels are the classes."""
    rng = np.random.default_rng(0)
    classes = np.kron(rng.integers(0, 5, (3, 4)), np.ones((16, 16))).astype(np.uint8)
    matrix = letterbox(*classes.shape, 64)
    small = np.array([[1 / stride, 0, 0], [0, 1 / stride, 0]])
    moved = warp_labels(classes + 1, small @ np.vstack([matrix, [0, 0, 1]]), 64 // stride)
    assert (moved[: 8 // stride] == 0).all()  # the letterbox's margin
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(moved).long().clamp(min=1) - 1, 5)
    meta = ImageMeta(1, "", *classes.shape, matrix)
    found = classes_at_original(one_hot.permute(2, 0, 1).float(), stride, meta)
    assert found.shape == classes.shape
    inner = np.ones((16, 16), bool)
    inner[:stride] = inner[-stride:] = inner[:, :stride] = inner[:, -stride:] = False
    inner = np.kron(np.ones((3, 4), bool), inner)
    assert (found.numpy() == classes)[inner].all()
    assert (found.numpy() == classes).mean() > 0.85


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(6, 16, 16)
    meta = ImageMeta(1, "", 40, 60, letterbox(40, 60, 64))
    whole = classes_at_original(logits, 4, meta)
    monkeypatch.setattr("unified.ops.pixels.STRIP", 60 * 6 * 7)
    assert torch.equal(classes_at_original(logits, 4, meta), whole)


def test_losses_on_cases_that_fit_on_paper() -> None:
    classes = torch.tensor([[[0, 1], [IGNORE, 0]]], dtype=torch.uint8)
    sure = torch.nn.functional.one_hot(classes.long() % IGNORE, 3).permute(0, 3, 1, 2) * 40.0
    even = torch.zeros(1, 3, 2, 2)
    assert float(pixel_loss(sure, classes)) == pytest.approx(0, abs=1e-6)
    assert float(pixel_loss(even, classes)) == pytest.approx(np.log(3), rel=1e-5)
    assert float(pixel_loss(even, classes, 2.0)) == pytest.approx(np.log(3) * 4 / 9, rel=1e-5)
    assert float(dice_loss(sure, classes)) == pytest.approx(0, abs=1e-5)
    # class 0: 2 pixels, overlap 2/3, squares 1/3 → (4/3 + 1) / (1/3 + 2 + 1); class 1: 1 pixel
    expected = 1 - ((4 / 3 + 1) / (10 / 3) + (2 / 3 + 1) / (7 / 3)) / 2
    assert float(dice_loss(even, classes)) == pytest.approx(expected, rel=1e-5)
    nothing = torch.full_like(classes, IGNORE)
    assert float(pixel_loss(even, nothing)) == float(dice_loss(even, nothing)) == 0


def test_images_without_a_map_are_skipped(make: Callable) -> None:
    _, data = make("task=[stuff]")
    dataset = data.train_dataset()
    (with_map,) = dataset[(0, 0)]
    batch = collate([[with_map], [Sample(with_map.image, with_map.meta)]])
    assert batch.maps["stuff"].shape == (2, 16, 16)
    assert (batch.maps["stuff"][1] == IGNORE).all()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: f.unlink(), "cannot be read"),
        (lambda f: f.write_bytes(f.read_bytes()[:60]), "cannot be read"),
        (lambda f: f.write_bytes(f.read_bytes()[:-20]), "cannot be read"),
        (lambda f: f.write_bytes(b""), "cannot be read"),
        (lambda f: Image.new("L", (9, 9)).save(f), "9×9"),
        (lambda f: Image.new("RGB", (64, 64)).save(f), "colour"),
    ],
)
def test_a_bad_label_file_is_named(shapes: Path, tmp_path: Path, damage, said: str) -> None:
    split = CocoSplit(shapes, "val")
    source = Path(split.segments("stuff", 0).file)
    file = tmp_path / source.name
    file.write_bytes(source.read_bytes())
    split.segment_files["stuff"][int(split.ids[0])] = str(file)
    damage(file)
    with pytest.raises(DataError, match=said) as caught:
        split.class_map("stuff", 0)
    assert file.name in str(caught.value)


def test_an_index_image_gives_its_indices(shapes: Path, tmp_path: Path) -> None:
    """COCO's own stuff maps have a palette; its colours mean nothing."""
    split = CocoSplit(shapes, "val")
    expected = split.class_map("stuff", 0)
    image = Image.open(split.segments("stuff", 0).file)
    image.putpalette([7 * i % 256 for i in range(768)])
    image.save(tmp_path / "indexed.png")
    assert Image.open(tmp_path / "indexed.png").mode == "P"
    split.segment_files["stuff"][int(split.ids[0])] = str(tmp_path / "indexed.png")
    assert np.array_equal(split.class_map("stuff", 0), expected)


def test_grey_panoptic_labels_are_refused(shapes: Path, tmp_path: Path) -> None:
    split = CocoSplit(shapes, "val")
    Image.new("L", (64, 64)).save(tmp_path / "grey.png")
    split.segment_files["panoptic"][int(split.ids[0])] = str(tmp_path / "grey.png")
    with pytest.raises(DataError, match=r"grey\.png is a grey"):
        split.class_map("panoptic", 0)


@pytest.mark.parametrize("lost", ["file_name", "segments_info", "isthing", "area"])
def test_incomplete_panoptic_labels_are_refused(shapes: Path, tmp_path: Path, lost: str) -> None:
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    file = root / "annotations" / "panoptic_val.json"
    document = json.loads(file.read_text())
    first = document["annotations"][0]
    for row in (first, first["segments_info"][0], document["categories"][0]):
        row.pop(lost, None)
    file.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"panoptic_val\.json"):
        CocoSplit(root, "val")


def test_bad_requests_name_the_fix(make: Callable, coco_mini: Path) -> None:
    with pytest.raises(ConfigError, match="cross_entropy or focal"):
        make("task=[stuff]", "task.stuff.loss_kind=l2")
    with pytest.raises(DataError, match=r"stuff_<split>\.json"):
        make("task=[stuff]", f"data.root={coco_mini}", "data.train=train2017", "data.val=val2017")
